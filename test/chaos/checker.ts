/**
 * The judge: from what clients were told and from what the database and the provider have, each claim with what it looked
 * at and what speaks against it. It asks nobody and changes nothing, so that doctored records show whether it can object.
 */
import { MOVES } from '../../src/shared/booking.ts'
import type { Finding } from '../../src/shared/verify.ts'
import type { Evidence, Row } from './evidence.ts'
import type { Entry } from './record.ts'

type Claim = (evidence: Evidence, known: Known) => Omit<Finding, 'invariant'>

/** What several claims look things up in. */
interface Known {
  byId: ReadonlyMap<string, Row>
  /** entries that tell of a purchase or booking, by its id, in order of their answers */
  told: ReadonlyMap<string, (Entry & { told: NonNullable<Entry['told']> })[]>
}

/** Offenders named by one claim. */
const OFFENDERS = 20

/** status → statuses that it may be followed by, at once or later */
const LATER = new Map<string, ReadonlySet<string>>()
{
  const next: Record<string, readonly string[]> = {
    queued: ['held', 'confirmed', 'rejected', 'failed', 'cancelled'],
    held: ['confirmed', 'failed', 'cancelled', 'expired'],
    confirmed: ['refunded'],
  }
  const bookings = Object.fromEntries(Object.entries(MOVES).map(([from, to]) => [from, Object.values(to)]))
  const all = (from: string, seen = new Set([from])): Set<string> => {
    for (const to of [...(next[from] ?? []), ...(bookings[from] ?? [])]) if (!seen.has(to)) all(to, seen.add(to))
    return seen
  }
  const names = [...Object.values(next).flat(), ...Object.keys(bookings), 'refunded', 'queued', 'held']
  for (const name of names) LATER.set(name, all(name))
}
const mayFollow = (before: string, after: string) => LATER.get(before)?.has(after) === true

const ENDS = new Set([
  'confirmed',
  'rejected',
  'failed',
  'cancelled',
  'expired',
  'refunded',
  'accepted',
  'completed',
  'declined',
])
/** What a client may be answered; 0 is no answer, and 503 may come at any time. */
const ANSWERS: Record<string, readonly number[]> = {
  take: [201, 202, 402, 409],
  otherBody: [201, 202, 402, 409, 422],
  command: [200, 202, 402, 409],
  look: [200],
  restock: [200, 409],
  resize: [200, 409, 412],
  lease: [201, 409],
  release: [200, 204, 410],
  setup: [201, 428],
}
const COMMAND = /^\/api\/(?:purchases|bookings)\/([0-9a-f-]{36})\/(\w+)$/
const TAKES = new Set(['/api/purchases', '/api/bookings'])
const isTaking = ({ method, path }: Entry) => method === 'POST' && TAKES.has(path)
const kindOf = (entry: Entry) =>
  ANSWERS[entry.op] ? entry.op : COMMAND.test(entry.path) ? 'command' : isTaking(entry) ? 'take' : entry.op

const brief = (entry: Entry) =>
  `#${entry.n} ${entry.method} ${entry.path}: ${entry.status}${entry.code ? ` ${entry.code}` : ''}${
    entry.told ? ` ${entry.told.status}` : ''
  }`

const merged = (lines: readonly { resource: string; units: number }[]) => {
  const units = new Map<string, number>()
  for (const line of lines) units.set(line.resource, (units.get(line.resource) ?? 0) + line.units)
  return JSON.stringify([...units].sort())
}

const unitsOf = (rows: readonly Row[]) =>
  rows.reduce((sum, { lines }) => lines.reduce((n, one) => n + one.units, sum), 0)

function groups<T>(list: readonly T[], by: (one: T) => string | undefined): Map<string, T[]> {
  const map = new Map<string, T[]>()
  for (const one of list) {
    const key = by(one)
    if (key === undefined) continue
    const group = map.get(key)
    if (group) group.push(one)
    else map.set(key, [one])
  }
  return map
}

const CLAIMS: Record<string, Claim> = {
  'every answer is one that the contract knows'({ entries }) {
    const bad = entries.filter(
      (one) => one.status !== 0 && one.status !== 503 && !ANSWERS[kindOf(one)]?.includes(one.status),
    )
    return { looked_at: entries.length, offenders: bad.map(brief) }
  },

  'what was accepted exists, as it was asked for'({ entries }, { byId }) {
    const accepted = entries.filter((one) => isTaking(one) && one.told)
    const offenders = accepted.flatMap((entry) => {
      const row = byId.get(entry.told?.id ?? '')
      if (!row) return `${brief(entry)}: ${entry.told?.id} is nowhere`
      const { customer, rider_id, lines, payment } = (entry.body ?? {}) as {
        customer?: string
        rider_id?: string
        lines?: { resource: string; units: number }[]
        payment?: { method: string }
      }
      const same =
        row.customer === (customer ?? rider_id) &&
        row.method === (payment?.method ?? 'none') &&
        (lines === undefined || merged(lines) === merged(row.lines))
      return same ? [] : `${brief(entry)}: ${row.id} is not what was asked for`
    })
    return { looked_at: accepted.length, offenders }
  },

  'each one has come to one end'({ rows }, { told, byId }) {
    const open = rows.filter((row) => !ENDS.has(row.status)).map((row) => `${row.id} is ${row.status}`)
    const apart = rows.filter((row) => row.reason === 'unprocessable').map((row) => `${row.id} was set apart`)
    const lost = [...told.keys()].filter((id) => !byId.has(id)).map((id) => `${id} was told of and is nowhere`)
    return { looked_at: rows.length, offenders: [...open, ...apart, ...lost] }
  },

  'no answer is contradicted later'({ entries }, { told, byId }) {
    const offenders: string[] = []
    for (const [id, list] of told) {
      const row = byId.get(id)
      list.forEach((later, i) => {
        for (const entry of list.slice(0, i)) {
          if (entry.until_ms <= later.from_ms && !mayFollow(entry.told.status, later.told.status)) {
            offenders.push(`${id}: ${brief(entry)}, and then ${brief(later)}`)
          }
        }
        if (!row) return
        const { status, seq, customer, created_at } = later.told
        if (!mayFollow(status, row.status)) offenders.push(`${id}: ${brief(later)}, and it is ${row.status}`)
        const same =
          (seq === undefined || seq === row.seq) &&
          (customer === undefined || customer === row.customer) &&
          (created_at === undefined || Math.abs(new Date(created_at).getTime() - row.created_ms) <= 1)
        if (!same) offenders.push(`${id}: ${brief(later)} tells another place, customer or time than its row`)
      })
    }
    return { looked_at: entries.filter((one) => one.told).length, offenders }
  },

  'nothing that was acknowledged is withdrawn'({ entries }, { byId }) {
    const accepted = entries.filter((one) => isTaking(one) && (one.status === 201 || one.status === 202))
    const withdrawn = accepted.filter((one) => byId.get(one.told?.id ?? '')?.reason === 'not_acknowledged')
    return { looked_at: accepted.length, offenders: withdrawn.map(brief) }
  },

  'the same key tells the same one'({ entries }) {
    const keyed = groups(
      entries.filter((one) => isTaking(one) && one.told && one.key !== undefined),
      (one) => `${one.path} ${one.key}`,
    )
    const several = [...keyed].filter(([, list]) => new Set(list.map((one) => one.told?.id)).size > 1)
    return { looked_at: keyed.size, offenders: several.map(([key, list]) => `${key}: ${list.map(brief).join('; ')}`) }
  },

  'one intent has one row'({ rows, commands, restocks }) {
    const own = rows.filter((row) => row.replaces === null)
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

  'a key with another body is refused'({ entries }) {
    const groupsOf = groups(
      entries.filter((one) => one.op === 'otherBody' && isTaking(one)),
      (one) => one.intent,
    )
    const offenders = [...groupsOf.values()].flatMap((list) => {
      const [first] = list
      const others = list.filter((one) => JSON.stringify(one.body) !== JSON.stringify(first?.body))
      return others.filter((one) => one.status !== 422 && one.status !== 0 && one.status !== 503).map(brief)
    })
    return { looked_at: groupsOf.size, offenders }
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
      return `${id} is ${status}, and nobody asked for it`
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

  'no change of a resource is lost: no version is told to two who made it'({ entries }) {
    const made = entries.filter(
      (one) => one.status === 200 && one.replayed !== true && (one.op === 'resize' || one.op === 'restock'),
    )
    const versions = groups(made, (one) => `${one.path.replace(/\/restock$/, '')} version ${one.version}`)
    return {
      looked_at: made.length,
      offenders: [...versions].filter(([, list]) => list.length > 1).map(([name]) => name),
    }
  },

  'tokens of leases rise'({ entries }) {
    const grants = entries.filter((one) => one.op === 'lease' && one.status === 201)
    const offenders = [...groups(grants, (one) => String(one.body?.resource))].flatMap(([resource, list]) => {
      const ended = [...list].sort((a, b) => a.until_ms - b.until_ms)
      let highest = 0
      return list
        .sort((a, b) => a.from_ms - b.from_ms)
        .filter((one) => {
          while (ended[0] && ended[0].until_ms <= one.from_ms) highest = Math.max(highest, ended.shift()?.token ?? 0)
          return (one.token ?? 0) <= highest
        })
        .map((one) => `${resource}: ${one.token} after a higher one`)
    })
    return { looked_at: grants.length, offenders }
  },

  'the provider has the money of what was sold by card, once, and of nothing else'({ rows, provider }) {
    const SOLD = new Set(['confirmed', 'accepted', 'completed'])
    const right = new Map(
      rows
        .filter((row) => row.method === 'card' && SOLD.has(row.status) && (row.amount ?? 0) > 0)
        .map((row) => [row.replaces ?? row.id, row.amount ?? 0]),
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

  'everything that can be sold is sold when it is asked for, and no more'({ entries }) {
    const wanted: Record<string, number> = { 'sell all': 201, 'sell one more': 409 }
    const asked = entries.filter((one) => wanted[one.op] !== undefined)
    return { looked_at: asked.length, offenders: asked.filter((one) => one.status !== wanted[one.op]).map(brief) }
  },

  'no process ended by itself': ({ fallen }) => ({ looked_at: fallen.length, offenders: [...fallen] }),
}
ANSWERS['sell all'] = ANSWERS['sell one more'] = [201, 409]

/** Customers who come more than once. */
const SHARED = /^(rider|fan)-/

export function check(evidence: Evidence): Finding[] {
  const byId = new Map(evidence.rows.map((row) => [row.id, row]))
  const told = groups(
    evidence.entries.filter((one): one is Entry & { told: NonNullable<Entry['told']> } => one.told !== undefined),
    (one) => one.told.id,
  )
  for (const list of told.values()) list.sort((a, b) => a.until_ms - b.until_ms)
  const found = Object.entries(CLAIMS).map(([invariant, claim]): Finding => {
    const { looked_at, offenders } = claim(evidence, { byId, told })
    return { invariant, looked_at, offenders: offenders.slice(0, OFFENDERS) }
  })
  return [...found, ...evidence.invariants]
}
