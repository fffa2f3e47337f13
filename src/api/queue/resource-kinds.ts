/** A cache of the kind of each resource: units, calendar or account. Invariant: a resource is never deleted and never changes its kind. */

import { sql } from 'drizzle-orm'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query } from '../../shared/db/client.ts'
import { anyOf } from '../../shared/db/unnest.ts'
import { isAccount } from '../../shared/domain/resource.ts'
import { fieldProblem } from '../../shared/problem.ts'

type Kind = 'units' | 'calendar'

export interface RequestedResource {
  ref: string
  /** the request field that names it */
  field: string
  /** `account`: units that are money */
  kind: Kind | 'account'
}

export interface ResourceKinds {
  /** @throws Problem 422 naming the field whose resource does not exist, or is of the other kind */
  assertKinds(requested: readonly RequestedResource[]): Promise<void>
}

/** Most references that one process caches; beyond that the cache is emptied. */
const CACHED = 100_000
const WORDS = { units: 'sold by units', calendar: 'booked by time', account: 'an account of money' } as const
/** An account has type `account` and kind `units`; with kind `calendar` it is neither. */
const isKind = (ref: string, found: Kind, requested: RequestedResource['kind']) =>
  isAccount(ref) ? requested === 'account' && found === 'units' : requested === found

export function createResourceKinds(client: Client, viaBreaker: Breaker['run']): ResourceKinds {
  const kinds = new Map<string, Kind>()
  return {
    async assertKinds(requested) {
      const unknown = requested.map(({ ref }) => ref).filter((ref) => !kinds.has(ref))
      if (unknown.length > 0) {
        const rows = await viaBreaker(() =>
          query<{ id: string; kind: Kind }>(
            client,
            sql`SELECT id, kind FROM resources WHERE id ${anyOf(unknown, 'text')}`,
          ),
        )
        if (kinds.size > CACHED) kinds.clear()
        for (const { id, kind } of rows) kinds.set(id, kind)
      }
      for (const { ref, field, kind } of requested) {
        const found = kinds.get(ref)
        if (found === undefined)
          throw fieldProblem(field, `names ${ref}, which does not exist`, 422, 'unknown_resource')
        if (!isKind(ref, found, kind))
          throw fieldProblem(field, `names ${ref}, which is not ${WORDS[kind]}`, 422, 'wrong_kind')
      }
    },
  }
}
