/**
 * Checks docs/commands.md cell by cell, with an API and a worker: each command in each status before, during and after
 * the stay.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { BOOKING_COMMANDS, BOOKING_STATUSES } from '../../src/shared/domain/booking.ts'
import { PURCHASE_COMMANDS, PURCHASE_STATUSES } from '../../src/shared/domain/purchase.ts'
import { newId } from '../../src/shared/ids.ts'
import { type Answer, openShop, stopSweeper } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

const WAIT = { prefer: 'wait=30' }
const page = readFileSync(join(ROOT, 'docs/commands.md'), 'utf8')

interface Row {
  status: string
  /** the text after the status in its cell */
  how: string
  time: string
  cells: [command: string, expected: string][]
}

/** Returns the rows of the table under this heading. */
function table(heading: string): Row[] {
  const [, section = ''] = page.split(`\n## ${heading}\n`)
  const lines = (section.split('\n## ')[0] ?? '').split('\n').filter((line) => line.startsWith('|'))
  const [head = [], , ...rows] = lines.map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
  return rows.map((cells) => {
    const of = new Map(head.map((name, i) => [name, cells[i] ?? '']))
    const [status = '', how = ''] = (of.get('status') ?? '').split(', ')
    const commands = head.filter((name) => name !== 'status' && name !== 'time')
    return {
      status,
      how,
      time: of.get('time') ?? 'any',
      cells: commands.map((name) => [name, (of.get(name) ?? '').replaceAll('`', '')]),
    }
  })
}

/** Returns a response in the notation of a cell. */
const cellOf = ({ status, body }: Answer) => (status === 200 ? body.status : `${status} ${body.code}`)

const HOUR = "interval '1 hour'"
/** time of a stay → its start and end, relative to now */
const TIMES: Record<string, [from: string, until: string]> = {
  before: [`now() + ${HOUR}`, `now() + 25 * ${HOUR}`],
  during: [`now() - ${HOUR}`, `now() + 23 * ${HOUR}`],
  after: [`now() - 25 * ${HOUR}`, `now() - ${HOUR}`],
}

t.test('every command in every status at every time: as docs/commands.md says', async (t) => {
  const world = await openWorld(t)
  const [api] = await Promise.all([world.startApi(), world.startWorker()])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  // A row inserted as queued stays queued until the command nudges its queue.
  await stopSweeper(t, world)

  /** Inserts a booking in this status, at this time. */
  async function booking(kind: 'stay' | 'ride', { status, how }: Row, time: string): Promise<string> {
    const [id, resource] = [newId(), await shop.calendar('room')]
    const [from, until] = kind === 'ride' ? [`now() - ${HOUR}`, 'NULL'] : (TIMES[time] ?? ['', ''])
    const hold = kind === 'stay' && (how.startsWith('with ') || status === 'requested')
    const expires = { 'the hold lasts': `now() + ${HOUR}`, 'the hold is over': 'now()' }[how] ?? 'NULL'
    await shop.client.unsafe(
      `INSERT INTO bookings (id, kind, resource_id, customer, period, hold_seconds, status, expires_at)
       VALUES ($1, $2, $3, $3, tstzrange(${from}, ${until}), ${hold ? 3600 : 'NULL'}, $4, ${expires})`,
      [id, kind, resource, status],
    )
    return id
  }

  async function purchase({ status, how }: Row): Promise<string> {
    const ref = await shop.units('product', 1)
    const buy = async (units: number, more: object) => {
      const { body } = await shop.insist({ customer: 'ada', lines: [{ resource: ref, units }], ...more }, WAIT)
      const id = (body.id ?? body.purchase.id) as string
      await until(async () => (await shop.purchase(id)).status !== 'queued', { timeout_ms: 60_000 })
      return id
    }
    if (status === 'queued') {
      const id = newId()
      await shop.client`
        INSERT INTO purchases (id, queue, customer, items, hold_seconds)
        VALUES (${id}, ${ref}, 'ada', ${JSON.stringify([{ resource: ref, units: 1 }])}::jsonb, ${how.startsWith('without') ? null : 3600})`
      return id
    }
    if (status === 'rejected') return await buy(2, {})
    if (status === 'failed')
      return await buy(1, { payment: { method: 'wallet', account: await shop.units('account', 1) } })
    const id = await buy(1, status === 'confirmed' || status === 'refunded' ? {} : { hold_seconds: 3600 })
    if (status === 'refunded') await shop.command(id, 'refund')
    if (status === 'cancelled') await shop.command(id, 'cancel')
    if (status === 'expired' || how === 'the hold is over') {
      await shop.client`UPDATE purchases SET expires_at = clock_timestamp() WHERE id = ${id}`
    }
    if (status === 'expired') {
      // Another purchase needs the unit: its settlement expires the hold.
      await buy(1, { hold_seconds: 1 })
    }
    return id
  }

  async function walk(heading: string, statuses: readonly string[], commands: readonly string[], make: Make) {
    const rows = table(heading)
    t.same([...new Set(rows.map((row) => row.status))].sort(), [...statuses].sort(), `${heading}: every status`)
    const cells = rows.flatMap((row) => {
      t.same(
        row.cells.map(([name]) => name),
        commands,
      )
      const times = row.time === 'any' && heading === 'Stays' ? Object.keys(TIMES) : [row.time]
      return times.flatMap((time) => row.cells.map(([name, expected]) => ({ row, time, name, expected })))
    })
    for (let at = 0; at < cells.length; at += 12) {
      await Promise.all(
        cells.slice(at, at + 12).map(async ({ row, time, name, expected }) => {
          const what = `${heading}: ${name} of what is ${row.status} ${row.how}, ${time}`
          const id = await make(row, time)
          const send = heading === 'Purchases' ? shop.command : shop.move
          // A busy machine may answer 503 or 202: the same key repeats the same command.
          const answer = await until(
            async () => {
              const one = await send(id, name, { ...WAIT, 'idempotency-key': `${name} ${id}` })
              return one.status === 503 || one.status === 202 ? undefined : one
            },
            { what, timeout_ms: 60_000 },
          )
          t.equal(cellOf(answer), expected, what)
          const shown = heading === 'Purchases' ? await shop.purchase(id) : await shop.booking(id)
          if (answer.status === 200) t.equal(shown.status, expected, what)
          if (answer.body.code === 'wrong_status') t.equal(answer.body.current_status, shown.status, what)
        }),
      )
    }
    t.comment(`${heading}: ${cells.length} cells`)
  }
  type Make = (row: Row, time: string) => Promise<string>

  await walk('Purchases', PURCHASE_STATUSES, PURCHASE_COMMANDS, purchase)
  await walk('Stays', BOOKING_STATUSES, BOOKING_COMMANDS, (row, time) => booking('stay', row, time))
  await walk('Rides', BOOKING_STATUSES, BOOKING_COMMANDS, (row) => booking('ride', row, 'any'))
  await shop.verified()
})
