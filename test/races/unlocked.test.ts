/** The races with leases that exclude no other worker, and a delay of 3 ms between worker and database. */
import t from 'tap'
import { runTable } from './table.ts'

t.test('two APIs, three workers with leases that exclude no other worker, 3 ms from worker to database', async (t) => {
  await runTable(t, false)
})
