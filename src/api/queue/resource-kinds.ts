/**
 * A cache of the kind of each resource: units, calendar or account. Invariant: a resource is never deleted and never changes
 * its kind.
 */

import { resources } from '../../shared/db/schema.ts'
import { build, isOneOf, prepare } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import { isAccount } from '../../shared/domain/resource.ts'
import { fieldProblem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'

type Kind = (typeof resources.$inferSelect)['kind']

export interface RequestedResource {
  ref: string
  /** the request field that names it */
  field: string
  /** `account`: units that are money */
  kind: Kind | 'account'
}

export interface ResourceKinds {
  /** Checks each resource. @throws Problem 422 naming the field whose resource does not exist, or has another kind */
  assertKinds(requested: readonly RequestedResource[]): Promise<void>
}

/** Maximum number of references that one process caches; beyond that the cache is emptied. */
const CACHED = 100_000
const WORDS = { units: 'sold by units', calendar: 'booked by time', account: 'an account of money' } as const
/**
 * Returns whether a resource of kind `found` is what the request needs. An account has type `account` and kind `units`; a
 * resource of type `account` and kind `calendar` serves no request.
 */
const isKind = (ref: string, found: Kind, requested: RequestedResource['kind']) =>
  isAccount(ref) ? requested === 'account' && found === 'units' : requested === found

const kindsSql = prepare(
  build.select({ id: resources.id, kind: resources.kind }).from(resources).where(isOneOf(resources.id, 'ids')),
)

export function createResourceKinds(db: Pick<Database, 'query'>): ResourceKinds {
  const kinds = new Map<string, Kind>()
  return {
    async assertKinds(requested) {
      const unknown = requested.map(({ ref }) => ref).filter((ref) => !kinds.has(ref))
      if (unknown.length > 0) {
        const rows = await db.query(kindsSql, { ids: arrayText(unknown) })
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
