/** The transitions of a booking: the table, the check of the API, and the trigger of the database say the same. */
import t from 'tap'
import {
  BOOKING_COMMANDS,
  BOOKING_STATUSES,
  type BookingCommand,
  type BookingStatus,
  MOVES,
  mayStill,
} from '../../../src/shared/domain/booking.ts'
import { reachableFrom } from '../../../src/shared/domain/moves.ts'
import { openShop } from '../../support/api-client.ts'
import { openWorld } from '../../support/environment.ts'
import { differingPairs } from './status-pairs.ts'

t.test('statuses: each can be reached, and none leads back to an earlier one', async (t) => {
  t.same([...reachableFrom(MOVES, 'queued')].sort(), [...BOOKING_STATUSES].sort())
  for (const from of BOOKING_STATUSES) {
    for (const to of Object.values(MOVES[from])) t.notOk(reachableFrom(MOVES, to).has(from), `${from} → ${to}`)
  }
})

t.test('mayStill: true only in the statuses from which the command can become possible', async (t) => {
  const possible: Record<BookingCommand, BookingStatus[]> = {
    accept: ['queued', 'requested'],
    decline: ['queued', 'requested'],
    cancel: ['queued', 'requested', 'accepted'],
    complete: ['queued', 'requested', 'accepted'],
  }
  for (const command of BOOKING_COMMANDS) {
    t.same(
      BOOKING_STATUSES.filter((status) => mayStill(status, command)),
      possible[command],
      command,
    )
  }
})

t.test('trigger of the database: accepts the changes of the table, and no other', async (t) => {
  const world = await openWorld(t)
  const { client } = openShop(t, [''], world.env.DATABASE_URL)
  let rooms = 0
  const differing = await differingPairs(client, 'bookings', MOVES, async (status) => {
    // Use another resource for each booking: two active bookings of one resource would overlap.
    rooms++
    const [row] = await client<{ id: string }[]>`
      INSERT INTO bookings (resource_id, period, status)
      VALUES (${`room:${rooms}`}, '[2030-01-01,2030-01-05)', ${status}) RETURNING id`
    return row?.id ?? ''
  })
  t.same(differing, [])
})
