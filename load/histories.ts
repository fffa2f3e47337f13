/** `npm run histories`: runs histories of a lock against the model, many more than the tests do. */
import { readCommand } from '../ops/dev/command.mjs'
import { openHistoryWorld } from '../test/locks/model/environment.ts'
import { fencedInMemory, runHistories } from '../test/locks/model/histories.ts'

const USAGE = `
npm run histories [-- OPTIONS]     random histories of a lock against a model
  --runs=10000
  --seed=N                         one of its own by default, which is printed
  --path=P --replay-path=R         with the seed: the history that failed, again
Exit code 1 when one fails. 2: the options make no sense.`

const { values, whole } = readCommand({
  name: 'histories',
  usage: USAGE,
  options: {
    runs: { type: 'string', default: '10000' },
    seed: { type: 'string' },
    path: { type: 'string' },
    'replay-path': { type: 'string' },
  },
})
const histories = whole('runs', { to: 99_999_999 })
const seed = values.seed === undefined ? Date.now() % 2 ** 31 : whole('seed', { from: 0, to: 2 ** 31 - 1 })
console.log(`histories: ${histories}, seed ${seed}`)
const began = performance.now()
const world = await openHistoryWorld()
const { failed, report, seen } = await runHistories(world, fencedInMemory(), {
  histories,
  seed,
  ...(values.path !== undefined && { path: values.path }),
  ...(values['replay-path'] !== undefined && { replayPath: values['replay-path'] }),
  onFailure: (error) => console.log(`histories: one fails: ${error}`),
  onHistory(done) {
    if (done % 500 === 0) console.log(`histories: ${done} in ${Math.round((performance.now() - began) / 1000)} s`)
  },
})
await world.stop()
for (const [what, count] of Object.entries(seen).sort()) console.log(`  ${what}: ${count}`)
console.log(failed ? report : `histories: ${histories} passed, seed ${seed}`)
process.exit(failed ? 1 : 0)
