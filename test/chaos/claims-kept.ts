/** Claims about the data at the end of a run: rows, ledger and money must match the requests. */
import { BOOKING_STATUSES } from '../../src/shared/domain/booking.ts'
import { PURCHASE_STATUSES } from '../../src/shared/domain/purchase.ts'
import type { Row } from './evidence.ts'
import { brief, type Claim, COMMAND, groups } from './known.ts'

const OPEN = new Set<string>(['queued', 'held', 'requested'])
const ENDS = new Set<string>([...PURCHASE_STATUSES, ...BOOKING_STATUSES].filter((status) => !OPEN.has(status)))

/** Customers that send more than one intent. */
const SHARED = /^(rider|fan)-/

const unitsOf = (rows: readonly Row[]) =>
  rows.reduce((sum, { items }) => items.reduce((n, one) => n + one.units, sum), 0)

export const KEPT: Record<string, Claim> = {
  'each one has come to one end'({ rows }, { told, byId }) {
    const open = rows.filter((row) => !ENDS.has(row.status)).map((row) => `${row.id} is ${row.status}`)
    const apart = rows.filter((row) => row.reason === 'unprocessable').map((row) => `${row.id} was set apart`)
    const lost = [...told.keys()].filter((id) => !byId.has(id)).map((id) => `${id} was told of and is nowhere`)
    return { looked_at: rows.length, offenders: [...open, ...apart, ...lost] }
  },

  'liveness: once the load is over no row is queued for longer than 10 s'({ lingering: { looks, rows } }) {
    return { looked_at: looks, offenders: [...rows] }
  },

  'one intent has one row'({ rows, commands, restocks }) {
    const own = rows.filter((row) => row.replaces_id === null)
    const byKey = groups(own, (row) => (row.key === null ? undefined : `${row.kind} ${row.key}`))
    const byCustomer = groups(own, (row) =>
      /^[a-z]+-\d+$/.test(row.customer) && !SHARED.test(row.customer) ? row.customer : undefined,
    )
    const others = [...groups(commands, (one) => one.key), ...groups(restocks, (one) => one.key)]
    const twice = [...byKey, ...byCustomer].filter(([, list]) => list.length > 1)
    return {
      looked_at: byKey.size + byCustomer.size + others.length,
      offenders: [
        ...twice.map(([who, list]) => `${who}: ${list.map((row) => row.id).join(', ')}`),
        ...others.filter(([, list]) => list.length > 1).map(([key]) => key),
      ],
    }
  },

  'first come, first served: in a line of single buyers nobody is sold what came after a sold_out'({ rows, lines }) {
    const offenders = [...lines.keys()].flatMap((ref) => {
      const line = rows.filter((row) => row.queue === ref)
      const highest = Math.max(0, ...line.filter((row) => row.status === 'confirmed').map((row) => row.seq))
      const lowest = Math.min(...line.filter((row) => row.reason === 'sold_out').map((row) => row.seq))
      return highest < lowest ? [] : `${ref}: ${highest} is confirmed, ${lowest} is sold out`
    })
    return { looked_at: lines.size, offenders }
  },

  'as many are sold as there were, or as many as wanted one'({ rows, lines }) {
    const offenders = [...lines].flatMap(([ref, units]) => {
      const line = rows.filter((row) => row.queue === ref && row.status !== 'cancelled')
      const sold = unitsOf(line.filter((row) => row.status === 'confirmed'))
      const right = Math.min(units, unitsOf(line))
      return sold === right ? [] : `${ref}: ${sold} sold, ${right} would be right`
    })
    return { looked_at: lines.size, offenders }
  },

  'what ended by a command was commanded so, and what was told done is done'({ entries, commands }, { byId }) {
    const asked = new Set(entries.flatMap(({ path }) => COMMAND.exec(path)?.slice(1).join(' ') ?? []))
    const verbs: Record<string, string> = {
      refunded: 'refund',
      declined: 'decline',
      completed: 'complete',
      cancelled: 'cancel',
    }
    const unasked = [...byId.values()].flatMap(({ id, status, reason }) => {
      const verb = verbs[status]
      if (verb === undefined || reason === 'not_acknowledged' || asked.has(`${id} ${verb}`)) return []
      return `${id} is ${status}, and no caller requested it`
    })
    const state = new Map(commands.map((one) => [one.key, one.status]))
    const told = entries.filter((one) => COMMAND.test(one.path) && one.status === 200)
    const undone = told.filter((one) => one.key !== undefined && state.get(one.key) !== 'done')
    return { looked_at: told.length, offenders: [...unasked, ...undone.map(brief)] }
  },

  'a restock counts once, and only when it was told so'({ entries, restocks }) {
    const rows = groups(restocks, (one) => one.key)
    const intents = groups(
      entries.filter((one) => one.op === 'restock'),
      (one) => one.key,
    )
    const offenders = [...intents].flatMap(([key, list]) => {
      const done = rows.get(key) ?? []
      const delta = list[0]?.body?.delta
      if (done.some((one) => one.delta !== delta)) return `${key}: another amount`
      if (list.some((one) => one.status === 200)) return done.length === 1 ? [] : `${key}: ${done.length} in the ledger`
      const refused = list.at(-1)?.code === 'insufficient_available'
      return refused && done.length > 0 ? `${key}: refused, and in the ledger` : []
    })
    return { looked_at: intents.size, offenders }
  },

  'the provider has the money of what was sold by card, once, and of nothing else'({ rows, provider }) {
    const SOLD = new Set(['confirmed', 'accepted', 'completed'])
    const right = new Map(
      rows
        .filter((row) => row.method === 'card' && SOLD.has(row.status) && (row.amount ?? 0) > 0)
        .map((row) => [row.replaces_id ?? row.id, row.amount ?? 0]),
    )
    const offenders = [...new Set([...right.keys(), ...provider.keys()])].flatMap((id) => {
      const { taken, kept, open } = provider.get(id) ?? { taken: 0, kept: 0, open: 0 }
      const wanted = right.get(id) ?? 0
      return kept === wanted && taken <= 1 && open === 0
        ? []
        : `${id}: ${kept} kept of ${taken} payments and ${open} reservations left, ${wanted} would be right`
    })
    return { looked_at: provider.size, offenders }
  },
}
