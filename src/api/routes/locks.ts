/**
 * Inspecting locks, and forced release. Invariant: the API records a forced release, with its caller, before it releases the
 * lock; once the caller has the answer, the revoked holder can write nothing more, because the fencing token is raised in
 * Postgres too.
 */
import { and, eq, lt, sql } from 'drizzle-orm'
import Type from 'typebox'
import { UnavailableError } from '../../shared/breaker.ts'
import { forcedReleases, resources } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import { REF_PATTERN } from '../../shared/domain/resource.ts'
import { type LockStats, MAX_HOURS } from '../../shared/lock-stats.ts'
import type { LockState, Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import type { Database } from '../database.ts'
import { onLockServer } from '../http/lock-problems.ts'
import { cursors, page, pageOf, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { Nullable, PLAIN_TEXT, Ref, Time } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'
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
    description: 'The last token that was granted, or that a forced release set; 0 when none is stored',
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
  timeouts: Type.Integer({ description: 'Requests that found the lock still busy at the end of their wait' }),
  aborted: Type.Integer({ description: 'Requests whose caller disconnected or stopped' }),
  unreachable: Type.Integer({ description: 'Requests that the lock server did not answer' }),
  contentions: Type.Integer({ description: 'Attempts that found the lock busy' }),
  lost: Type.Integer({ description: 'Leases that ended before they were released' }),
  fencing_rejections: Type.Integer({ description: 'Writes of superseded lock holders that Postgres refused' }),
  success_rate: Nullable(Type.Number({ description: 'acquisitions / (acquisitions + failures)' })),
  wait_ms: Quantiles,
  hold_ms: Quantiles,
})

export interface LockOptions {
  db: Pick<Database, 'query'>
  locks: Locks
  stats: LockStats
  log: Log
}

export async function lockRoutes(app: TypedApp, { db, locks, stats, log }: LockOptions): Promise<void> {
  listRoute(app, locks)
  statsRoute(app, stats)
  getRoute(app, locks)
  forceReleaseRoute(app, db, locks, log)
}

const TAGS = ['locks']
const params = (sample: string) => Type.Object({ resource: Ref([sample]) })

function listRoute(app: TypedApp, locks: Locks): void {
  const schema = {
    operationId: 'listLocks',
    tags: TAGS,
    summary: 'List locks with their holders and waiters',
    description: 'Locks held for less than 500 ms may be missing; the route of a single lock is exact.',
    querystring: pageQuery({}),
    response: { 200: response(page(LockSchema), 'One page'), ...problemResponses(400) },
  }
  app.get('/api/locks', { schema }, async (request) => {
    const { limit = 20, cursor } = request.query
    const pageCursors = cursors('locks', {}, new RegExp(REF_PATTERN))
    const after = pageCursors.read(cursor) ?? ''
    const found = (await onLockServer(() => locks.list())).filter((lock) => lock.resource > after)
    return pageOf(found, limit, lockToResponse, (lock) => pageCursors.write(lock.resource))
  })
}

function statsRoute(app: TypedApp, stats: LockStats): void {
  const schema = {
    operationId: 'getLockStats',
    tags: TAGS,
    summary: 'Get lock statistics of the whole fleet',
    description:
      'Summed over all API and worker processes, which report once a second. Quantiles come from buckets whose bounds ' +
      'grow by the factor 2^(1/4): a value is never too low and at most 19 % too high.',
    querystring: Type.Object(
      { hours: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HOURS, default: 24 })) },
      { additionalProperties: false },
    ),
    response: { 200: response(StatsSchema, 'The last hours, including the present one'), ...problemResponses(400) },
  }
  app.get('/api/locks/stats', { schema }, async (request) => {
    const { since_ms, ...figures } = await stats.read(request.query.hours ?? 24).catch((error) => {
      throw new UnavailableError('redis', error)
    })
    return { since: new Date(since_ms).toISOString(), ...figures }
  })
}

function getRoute(app: TypedApp, locks: Locks): void {
  const schema = {
    operationId: 'getLock',
    tags: TAGS,
    summary: 'Get a lock with its holders and waiters',
    description: 'Both lists are empty when the lock is free.',
    params: params('sample:renewed'),
    response: { 200: response(LockSchema, 'The lock'), ...problemResponses(400) },
  }
  app.get('/api/locks/:resource', { schema }, async (request) =>
    lockToResponse(await onLockServer(() => locks.inspect(request.params.resource))),
  )
}

const ForceRelease = {
  operationId: 'forceReleaseLock',
  tags: TAGS,
  summary: 'Force-release a lock (admin)',
  description:
    'The holders are notified at once, the first waiter acquires the lock, and writes with the old tokens are ' +
    'refused from now on. The fencing token is raised even if the lock is free. The API records each forced release in the table forced_releases.',
  params: params('sample:stuck'),
  querystring: Type.Object(
    {
      reason: Type.Optional(
        Type.String({ minLength: 1, maxLength: 500, format: PLAIN_TEXT, description: 'Recorded with the release' }),
      ),
    },
    { additionalProperties: false },
  ),
  response: { 200: response(ForcedReleaseSchema, 'Released'), ...problemResponses(400, 413, 415) },
}

/** Records a forced release before the lock is released; returns the token that Postgres has for the resource. */
const recordSql = prepare(
  build
    .insert(forcedReleases)
    .values({ resource_id: value('resource'), requested_by: value('requested_by'), reason: value('reason') })
    .returning({
      id: forcedReleases.id,
      fencing_token: sql<number | null>`${build
        .select({ fencing_token: resources.fencing_token })
        .from(resources)
        .where(eq(resources.id, value('resource')))}`.as('fencing_token'),
    }),
)

/** Raises the token and completes the record in one statement: a completed record implies that old tokens are refused. */
function completeStatement() {
  const token = sql`${value('token')}::bigint`
  const raised = build.$with('raised').as(
    build
      .update(resources)
      .set({ fencing_token: token })
      .where(and(eq(resources.id, value('resource')), lt(resources.fencing_token, token)))
      .returning({ id: resources.id }),
  )
  return prepare(
    build
      .with(raised)
      .update(forcedReleases)
      .set({
        revoked_holders: sql`${value('revoked_holders')}::jsonb`,
        fencing_token: token,
        completed_at: sql`clock_timestamp()`,
      })
      .where(eq(forcedReleases.id, value('id'))),
  )
}
const completeSql = completeStatement()

function forceReleaseRoute(app: TypedApp, db: LockOptions['db'], locks: Locks, log: Log): void {
  app.delete('/api/locks/:resource', { config: { admin: true }, schema: ForceRelease }, async (request) => {
    const { resource } = request.params
    const { reason = null } = request.query
    const requested_by = request.caller || 'open'
    const [record] = await db.query(recordSql, { resource, requested_by, reason })
    const above = record?.fencing_token ?? 0
    const { token, revoked_holders } = await onLockServer(() => locks.forceRelease(resource, { above }))
    const holders = revoked_holders.map(holderToResponse)
    log.warn({ resource, requested_by, reason, fencing_token: token, revoked_holders: holders }, 'lock force-released')
    // If this statement fails, the caller gets an error and can repeat the request.
    await db.query(completeSql, { resource, token, revoked_holders: JSON.stringify(holders), id: record?.id ?? null })
    return { resource, fencing_token: token, revoked_holders: holders }
  })
}
