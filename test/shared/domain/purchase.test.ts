/** The transitions of a purchase: the table, the check of the API, and the trigger of the database say the same. */
import t from 'tap'
import { reachableFrom } from '../../../src/shared/domain/moves.ts'
import {
  MOVES,
  mayStill,
  PURCHASE_COMMANDS,
  PURCHASE_STATUSES,
  type PurchaseCommand,
  type PurchaseStatus,
} from '../../../src/shared/domain/purchase.ts'
import { openShop } from '../../support/api-client.ts'
import { openWorld } from '../../support/environment.ts'
import { differingPairs } from './status-pairs.ts'

t.test('statuses: each can be reached, and none leads back to an earlier one', async (t) => {
  t.same([...reachableFrom(MOVES, 'queued')].sort(), [...PURCHASE_STATUSES].sort())
  for (const from of PURCHASE_STATUSES) {
    for (const to of Object.values(MOVES[from])) t.notOk(reachableFrom(MOVES, to).has(from), `${from} → ${to}`)
  }
})

t.test('mayStill: true only in the statuses from which the command can become possible', async (t) => {
  const possible: Record<PurchaseCommand, PurchaseStatus[]> = {
    confirm: ['queued', 'held'],
    cancel: ['queued', 'held'],
    refund: ['queued', 'held', 'confirmed'],
  }
  for (const command of PURCHASE_COMMANDS) {
    t.same(
      PURCHASE_STATUSES.filter((status) => mayStill(status, command)),
      possible[command],
      command,
    )
  }
})

t.test('trigger of the database: accepts the changes of the table, and no other', async (t) => {
  const world = await openWorld(t)
  const { client } = openShop(t, [''], world.env.DATABASE_URL)
  const differing = await differingPairs(client, 'purchases', MOVES, async (status) => {
    const [row] = await client<{ id: string }[]>`
      INSERT INTO purchases (queue, items, status, expires_at) VALUES ('product:1', '[]', ${status}, now()) RETURNING id`
    return row?.id ?? ''
  })
  t.same(differing, [])
})
