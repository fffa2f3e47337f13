/** The races with leases. */
import t from 'tap'
import { runTable } from './table.ts'

t.test('two APIs, three workers with leases', async (t) => {
  await runTable(t, true)
})
