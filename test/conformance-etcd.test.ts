import { conform } from './conformance.ts'

await conform('etcd')
