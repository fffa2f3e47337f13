/** Runs one measurement in this process: receives the task over IPC, sends the result, and ends. */
import { once } from 'node:events'
import { type Library, openLibrary } from './libraries.ts'
import { line, pairs } from './scenarios.ts'

export interface Task {
  library: Library
  urls: string[]
  scenario: 'pairs' | 'line'
  loops: number
  seconds: number
}

const asked = once(process, 'message')
process.send?.({ type: 'up' })
const [{ library, urls, scenario, loops, seconds }] = (await asked) as [Task]
const locks = await openLibrary(library, urls)
const result = await (scenario === 'pairs' ? pairs : line)(locks, loops, seconds)
process.send?.({ type: 'measure', result }, undefined, {}, () => process.exit(0))
