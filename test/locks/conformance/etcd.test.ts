import { conform } from './suite.ts'

await conform('etcd')
