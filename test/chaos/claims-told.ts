/** Claims about the answers that clients got: each answer is correct, and no two of them contradict each other. */
import { MOVES as BOOKING_MOVES } from '../../src/shared/domain/booking.ts'
import { type Moves, reachableFrom } from '../../src/shared/domain/moves.ts'
import { MOVES as PURCHASE_MOVES } from '../../src/shared/domain/purchase.ts'
import { brief, type Claim, COMMAND, groups, isTaking } from './known.ts'
import type { Entry } from './record.ts'

/** status of a purchase or booking → statuses in which a later answer may show it */
const LATER = new Map<string, ReadonlySet<string>>()
function addLater<Status extends string>(moves: Moves<Status, string>) {
  for (const from of Object.keys(moves) as Status[]) {
    LATER.set(from, new Set([...(LATER.get(from) ?? []), ...reachableFrom(moves, from)]))
  }
}
addLater(PURCHASE_MOVES)
addLater(BOOKING_MOVES)
const mayFollow = (before: string, after: string) => LATER.get(before)?.has(after) === true

/** Statuses with which a request may be answered. 0 (no answer) and 503 are always allowed. */
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
ANSWERS['sell all'] = ANSWERS['sell one more'] = [201, 409]

const kindOf = (entry: Entry) =>
  ANSWERS[entry.op] ? entry.op : COMMAND.test(entry.path) ? 'command' : isTaking(entry) ? 'take' : entry.op

const merged = (lines: readonly { resource: string; units: number }[]) => {
  const units = new Map<string, number>()
  for (const line of lines) units.set(line.resource, (units.get(line.resource) ?? 0) + line.units)
  return JSON.stringify([...units].sort())
}

/** Claim that at least one fault happened: a run without faults proves nothing about them. */
export const HURT = 'a fault happened'

export const TOLD: Record<string, Claim> = {
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
        (lines === undefined || merged(lines) === merged(row.items))
      return same ? [] : `${brief(entry)}: ${row.id} is not what was asked for`
    })
    return { looked_at: accepted.length, offenders }
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

  'everything that can be sold is sold when it is asked for, and no more'({ entries }) {
    const wanted: Record<string, number> = { 'sell all': 201, 'sell one more': 409 }
    const asked = entries.filter((one) => wanted[one.op] !== undefined)
    return { looked_at: asked.length, offenders: asked.filter((one) => one.status !== wanted[one.op]).map(brief) }
  },

  [HURT]: ({ faults }) => ({ looked_at: faults, offenders: faults === 0 ? ['every fault came too late'] : [] }),

  'no process ended by itself': ({ fallen }) => ({ looked_at: fallen.length, offenders: [...fallen] }),
}
