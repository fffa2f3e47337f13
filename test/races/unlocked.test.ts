/** The races with leases that lock nobody out, and 3 ms between worker and database. */
import t from 'tap'
import { runTable } from './table.ts'

t.test('two APIs, three workers with leases that lock nobody out, and 3 ms between worker and database', async (t) => {
  await runTable(t, false)
})
