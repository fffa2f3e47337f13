/**
 * Inspecting locks, and forced release. Invariant: a forced release is recorded, with its caller, before it is done; once it
 * is answered, the revoked holder can write nothing more, because the fencing token is raised in Postgres too.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import { type Client, query } from '../../shared/db/client.ts'
import { REF_PATTERN } from '../../shared/domain/resource.ts'
import { type LockStats, MAX_HOURS } from '../../shared/lock-stats.ts'
import type { LockState, Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import { onLockServer } from '../http/lock-problems.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { Nullable, PLAIN_TEXT, Ref, Time } from '../http/schemas.ts'
import { WaiterSchema, waiterToResponse } from './leases.ts'

const Mode = Type.Enum(['exclusive', 'shared', 'permit'])
const HolderSchema = Type.Object({
  owner: Type.String({ description: 'host:pid and job, or the owner of a lease over HTTP' }),
  mode: Mode,
  limit: Type.Optional(Type.Integer()),
  fencing_token: Type.Integer(),
  since: Time,
  ttl_left_ms: Type.Integer({ description: 'Milliseconds until the lease expires, unless it is renewed' }),
})
export const LockSchema = Type.Object({
  resource: Type.String(),
  fencing_token: Type.Integer({
    description: 'The last token granted, or the one of a forced release; 0 when none is stored',
  }),
  holders: Type.Array(HolderSchema),
  waiters: Type.Array(WaiterSchema, { description: 'The wait queue, in order' }),
})
const ForcedReleaseSchema = Type.Object({
  resource: Type.String(),
  fencing_token: Type.Integer({ description: 'Every later token is higher; writes with a lower one are refused' }),
  revoked_holders: Type.Array(HolderSchema, { description: 'Empty when the lock was free' }),
})

const holderToResponse = ({ token, since_ms, ...holder }: LockState['holders'][number]) => ({
  ...holder,
  fencing_token: token,
  since: new Date(since_ms).toISOString(),
})
export const lockToResponse = ({
  resource,
  fencing_token,
  holders,
  waiters,
}: LockState): Type.Static<typeof LockSchema> => ({
  resource,
  fencing_token,
  holders: holders.map(holderToResponse),
  waiters: waiters.map(waiterToResponse),
})

const Quantiles = Type.Object({
  p50: Nullable(Type.Number()),
  p95: Nullable(Type.Number()),
  p99: Nullable(Type.Number()),
})
const StatsSchema = Type.Object({
  since: Type.String({ format: 'date-time', description: 'The full hour at which the figures begin' }),
  acquisitions: Type.Integer(),
  failures: Type.Integer({ description: 'timeouts + aborted + unreachable' }),
  timeouts: Type.Integer({ description: 'Still busy at the end of the wait' }),
  aborted: Type.Integer({ description: 'The caller disconnected or stopped' }),
  unreachable: Type.Integer({ description: 'The lock server did not answer' }),
  contentions: Type.Integer({ description: 'Attempts that found the lock busy' }),
  lost: Type.Integer({ description: 'Leases that ended before they were released' }),
  fencing_rejections: Type.Integer({ description: 'Writes of superseded lock holders that Postgres refused' }),
  success_rate: Nullable(Type.Number({ description: 'acquisitions / (acquisitions + failures)' })),
  wait_ms: Quantiles,
  hold_ms: Quantiles,
})

export interface LockOptions {
  client: Client
  locks: Locks
  stats: LockStats
  log: Log
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
}

export async function lockRoutes(
  instance: FastifyInstance,
  { client, locks, stats, log, viaBreaker }: LockOptions,
): Promise<void> {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const tags = ['locks']
  const params = (sample: string) => Type.Object({ resource: Ref([sample]) })

  app.get(
    '/api/locks',
    {
      schema: {
        operationId: 'listLocks',
        tags,
        summary: 'List locks with their holders and waiters',
        description: 'Locks held for less than 500 ms may be missing; the route of a single lock is exact.',
        querystring: pageQuery({}),
        response: { 200: response(page(LockSchema), 'One page'), ...problemResponses(400) },
      },
    },
    async (request) => {
      const { limit = 20, cursor } = request.query
      const pageCursors = cursors('locks', {}, new RegExp(REF_PATTERN))
      const after = pageCursors.read(cursor) ?? ''
      const found = (await onLockServer(() => locks.list())).filter((lock) => lock.resource > after)
      const data = found.slice(0, limit).map(lockToResponse)
      return { data, next_cursor: found.length > limit ? pageCursors.write(data.at(-1)?.resource ?? '') : null }
    },
  )

  app.get(
    '/api/locks/stats',
    {
      schema: {
        operationId: 'getLockStats',
        tags,
        summary: 'Get lock statistics of the whole fleet',
        description:
          'Summed over all API and worker processes, which report once a second. Quantiles come from buckets whose bounds ' +
          'grow by the factor 2^(1/4): a value is never too low and at most 19 % too high.',
        querystring: Type.Object(
          { hours: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HOURS, default: 24 })) },
          { additionalProperties: false },
        ),
        response: { 200: response(StatsSchema, 'The last hours, including the present one'), ...problemResponses(400) },
      },
    },
    async (request) => {
      const { since_ms, ...figures } = await stats.read(request.query.hours ?? 24).catch((error) => {
        throw new UnavailableError('redis', error)
      })
      return { since: new Date(since_ms).toISOString(), ...figures }
    },
  )

  app.get(
    '/api/locks/:resource',
    {
      schema: {
        operationId: 'getLock',
        tags,
        summary: 'Get a lock with its holders and waiters',
        description: 'Both lists are empty when the lock is free.',
        params: params('sample:renewed'),
        response: { 200: response(LockSchema, 'The lock'), ...problemResponses(400) },
      },
    },
    async (request) => lockToResponse(await onLockServer(() => locks.inspect(request.params.resource))),
  )

  app.delete(
    '/api/locks/:resource',
    {
      config: { admin: true },
      schema: {
        operationId: 'forceReleaseLock',
        tags,
        summary: 'Force-release a lock (admin)',
        description:
          'The holders are notified at once, the first waiter acquires the lock, and writes with the old tokens are ' +
          'refused from now on. The fencing token is raised even if the lock is free. Recorded in the table forced_releases.',
        params: params('sample:stuck'),
        querystring: Type.Object(
          {
            reason: Type.Optional(
              Type.String({
                minLength: 1,
                maxLength: 500,
                format: PLAIN_TEXT,
                description: 'Recorded with the release',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: response(ForcedReleaseSchema, 'Released'), ...problemResponses(400, 413, 415) },
      },
    },
    async (request) => {
      const { resource } = request.params
      const { reason = null } = request.query
      const requested_by = request.caller || 'open'
      const [record] = await viaBreaker(() =>
        query<{ id: number; fencing_token: number | null }>(
          client,
          sql`INSERT INTO forced_releases (resource_id, requested_by, reason) VALUES (${resource}, ${requested_by}, ${reason})
              RETURNING id, (SELECT fencing_token FROM resources WHERE id = ${resource}) AS fencing_token`,
        ),
      )
      const above = record?.fencing_token ?? 0
      const { token, revoked_holders } = await onLockServer(() => locks.forceRelease(resource, { above }))
      const holders = revoked_holders.map(holderToResponse)
      log.warn(
        { resource, requested_by, reason, fencing_token: token, revoked_holders: holders },
        'lock force-released',
      )
      // One statement, so that a completed record implies that Postgres refuses the old tokens. If it fails, the caller
      // gets an error and can repeat the request.
      await viaBreaker(() =>
        query(
          client,
          sql`WITH raised AS (UPDATE resources SET fencing_token = ${token} WHERE id = ${resource} AND fencing_token < ${token})
              UPDATE forced_releases SET revoked_holders = ${JSON.stringify(holders)}, fencing_token = ${token}, completed_at = clock_timestamp()
              WHERE id = ${record?.id}`,
        ),
      )
      return { resource, fencing_token: token, revoked_holders: holders }
    },
  )
}
