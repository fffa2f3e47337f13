import { conform } from './suite.ts'

await conform('redlock3')
