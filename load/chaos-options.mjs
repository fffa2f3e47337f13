/** The options of `npm run chaos`: read by ops/dev/test.mjs before it installs or starts anything, and by load/chaos.ts. */
import { readCommand } from '../ops/dev/command.mjs'

/** Seconds of load before the first fault and after the last. The run compares the throughput of both. */
const CALM_S = [10, 16]
/** The same for a run with a planted fault, which checks only whether the fault is found. */
const PLANTED_CALM_S = [3, 5]
const PLANTED_S = 30
/** @see chaos-options.d.mts */
export const LONGEST_FAULT_S = 5

const USAGE = `
npm run chaos [-- OPTIONS]     injects faults into a fleet while it sells, and checks its answers (docs/chaos.md)
  --seed=N           seed of the faults; a new one by default
  --seconds=60       duration of the load; or --minutes=N
  --rate=30          new clients per second
  --no-kills         freezes, starvation and slow networks only: no process and no connection ends
  --without=GUARD    removes a guard: exit code 1 if the checker finds it
  --guards           removes every guard, one after the other: the checker must find all (npm run chaos:guards)
  --out=DIR          records, logs, findings and the picture; .data/chaos/seed-N-TIME by default
  --picture=FILE     path of the picture
Exit code 1: the checker found an error, or no fault happened. 2: the options make no sense.`

/** @see chaos-options.d.mts */
export function readOptions(args) {
  const command = readCommand({
    name: 'chaos',
    usage: USAGE,
    args,
    options: {
      seed: { type: 'string' },
      seconds: { type: 'string' },
      minutes: { type: 'string' },
      rate: { type: 'string', default: '30' },
      without: { type: 'string' },
      guards: { type: 'boolean', default: false },
      'no-kills': { type: 'boolean', default: false },
      out: { type: 'string' },
      picture: { type: 'string' },
    },
  })
  const { values, whole, refuse } = command
  if (values.seconds !== undefined && values.minutes !== undefined) refuse('--seconds or --minutes, not both')
  if (values.guards && values.without !== undefined)
    refuse(`--guards takes out every guard: for one alone npm run chaos -- --without=${values.without}`)
  const planted = values.guards || values.without !== undefined
  const asked = values.minutes === undefined ? values.seconds && whole('seconds') : 60 * whole('minutes')
  const seconds = asked ?? (planted ? PLANTED_S : 60)
  const calm_s = planted ? PLANTED_CALM_S : CALM_S
  const shortest = calm_s[0] + calm_s[1] + LONGEST_FAULT_S
  if (seconds < shortest) {
    const why = `${calm_s[0]} s before the first fault and ${calm_s[1]} s after the last are without faults`
    refuse(`${seconds} s are too short for a fault: ${why}; the shortest run is --seconds=${shortest}`)
  }
  const { guards, without, out, picture } = values
  const seed = values.seed === undefined ? Date.now() % 2 ** 31 : whole('seed', { from: 0, to: 2 ** 31 - 1 })
  const kills = values['no-kills'] ? { kills: false } : {}
  return { seed, seconds, rate: whole('rate'), calm_s, ...kills, guards, without, out, picture, refuse }
}
