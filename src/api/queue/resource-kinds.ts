/** What is sold by units, what by the calendar, and what pays. A resource is never deleted and never changes its kind. */

import { sql } from 'drizzle-orm'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query } from '../../shared/db/client.ts'
import { isAccount } from '../../shared/domain/resource.ts'
import { badField } from '../../shared/problem.ts'

type Kind = 'units' | 'calendar'

export interface Wanted {
  ref: string
  /** where the client named it */
  field: string
  /** `account`: its units are money */
  kind: Kind | 'account'
}

export interface Kinds {
  /** @throws Problem 422 naming the field whose resource does not exist, or is of the other kind */
  check(wanted: readonly Wanted[]): Promise<void>
}

/** References that one process remembers; beyond that it starts to remember anew. */
const REMEMBERED = 100_000
const WORDS = { units: 'sold by units', calendar: 'booked by time', account: 'an account of money' } as const
/** An account is of type `account` and counts units: one by time was never of use, and is neither. */
const isKind = (ref: string, found: Kind, wanted: Wanted['kind']) =>
  isAccount(ref) ? wanted === 'account' && found === 'units' : wanted === found

export function createKinds(client: Client, guarded: Breaker['run']): Kinds {
  const kinds = new Map<string, Kind>()
  return {
    async check(wanted) {
      const unknown = wanted.map(({ ref }) => ref).filter((ref) => !kinds.has(ref))
      if (unknown.length > 0) {
        const rows = await guarded(() =>
          query<{ ref: string; kind: Kind }>(
            client,
            sql`SELECT ref, kind FROM resources
                WHERE ref IN (SELECT json_array_elements_text(${JSON.stringify(unknown)}::json))`,
          ),
        )
        if (kinds.size > REMEMBERED) kinds.clear()
        for (const { ref, kind } of rows) kinds.set(ref, kind)
      }
      for (const { ref, field, kind } of wanted) {
        const found = kinds.get(ref)
        if (found === undefined) throw badField(field, `names ${ref}, which does not exist`, 422, 'unknown_resource')
        if (!isKind(ref, found, kind))
          throw badField(field, `names ${ref}, which is not ${WORDS[kind]}`, 422, 'wrong_kind')
      }
    },
  }
}
