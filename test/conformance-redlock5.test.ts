import { conform } from './conformance.ts'

await conform('redlock5')
