/**
 * `npm run histories -- --runs=10000 [--seed=N] [--path=P --replay-path=R]`: histories of a lock against the model, many
 * more than the tests run. Prints the seed; with the seed and the paths of a failure it runs that history again.
 */
import { parseArgs } from 'node:util'
import { fencedInMemory, runHistories } from '../test/histories.ts'
import { openHistoryWorld } from '../test/history-world.ts'

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '10000' },
    seed: { type: 'string' },
    path: { type: 'string' },
    'replay-path': { type: 'string' },
  },
})
const histories = Number(values.runs)
const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed)
if (!(Number.isInteger(histories) && histories > 0 && Number.isInteger(seed))) {
  console.error('histories: --runs and --seed are whole numbers')
  process.exit(2)
}
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
