/**
 * Looking at locks, and taking one away. Invariant: whoever takes a lock away is written down before it is touched, and
 * once the answer is out the robbed holder can write nothing more: the fence is raised in Postgres too.
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
import { presentWaiter, WaiterSchema } from './leases.ts'

const Mode = Type.Enum(['exclusive', 'shared', 'permit'])
const HolderSchema = Type.Object({
  owner: Type.String({ description: 'host:pid and job, or what a lease over HTTP was taken with' }),
  mode: Mode,
  limit: Type.Optional(Type.Integer()),
  fencing_token: Type.Integer(),
  since: Time,
  ttl_left_ms: Type.Integer({ description: 'The lock ends then, unless it is renewed' }),
})
export const LockSchema = Type.Object({
  resource: Type.String(),
  fencing_token: Type.Integer({
    description: 'The last token given, or what a forced release left; 0 when none is remembered',
  }),
  holders: Type.Array(HolderSchema),
  waiters: Type.Array(WaiterSchema, { description: 'In the order of their turns' }),
})
const TakenSchema = Type.Object({
  resource: Type.String(),
  fencing_token: Type.Integer({ description: 'Every later token is higher; no write below it is accepted' }),
  revoked_holders: Type.Array(HolderSchema, { description: 'Empty when nobody had the lock' }),
})

const presentHolder = ({ token, since_ms, ...holder }: LockState['holders'][number]) => ({
  ...holder,
  fencing_token: token,
  since: new Date(since_ms).toISOString(),
})
export const presentLock = ({
  resource,
  fencing_token,
  holders,
  waiters,
}: LockState): Type.Static<typeof LockSchema> => ({
  resource,
  fencing_token,
  holders: holders.map(presentHolder),
  waiters: waiters.map(presentWaiter),
})

const Quantiles = Type.Object({
  p50: Nullable(Type.Number()),
  p95: Nullable(Type.Number()),
  p99: Nullable(Type.Number()),
})
const StatsSchema = Type.Object({
  since: Type.String({ format: 'date-time', description: 'The full hour from which on everything is counted' }),
  acquisitions: Type.Integer(),
  failures: Type.Integer({ description: 'timeouts + aborted + unreachable' }),
  timeouts: Type.Integer({ description: 'Still busy when the wait was over, or at once without one' }),
  aborted: Type.Integer({ description: 'The caller went away or stopped' }),
  unreachable: Type.Integer({ description: 'The lock server did not answer' }),
  contentions: Type.Integer({ description: 'Found the lock taken' }),
  lost: Type.Integer({ description: 'Ended before they were released' }),
  fencing_rejections: Type.Integer({ description: 'Writes of superseded holders that Postgres refused' }),
  success_rate: Nullable(Type.Number({ description: 'acquisitions / (acquisitions + failures)' })),
  wait_ms: Quantiles,
  hold_ms: Quantiles,
})

export interface LockRoutesDeps {
  client: Client
  locks: Locks
  stats: LockStats
  log: Log
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
}

export function lockRoutes(instance: FastifyInstance, { client, locks, stats, log, guarded }: LockRoutesDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const tags = ['locks']
  const params = (sample: string) => Type.Object({ resource: Ref([sample]) })

  app.get(
    '/api/locks',
    {
      schema: {
        operationId: 'listLocks',
        tags,
        summary: 'What is locked, by resource: who holds it and who waits',
        description: 'What is held for less than 500 ms may be left out; the route of one lock leaves out nothing.',
        querystring: pageQuery({}),
        response: { 200: response(page(LockSchema), 'One page'), ...problemResponses(400) },
      },
    },
    async (request) => {
      const { limit = 20, cursor } = request.query
      const places = cursors('locks', {}, new RegExp(REF_PATTERN))
      const after = places.read(cursor) ?? ''
      const found = (await onLockServer(() => locks.list())).filter((lock) => lock.resource > after)
      const data = found.slice(0, limit).map(presentLock)
      return { data, next_cursor: found.length > limit ? places.write(data.at(-1)?.resource ?? '') : null }
    },
  )

  app.get(
    '/api/locks/stats',
    {
      schema: {
        operationId: 'getLockStats',
        tags,
        summary: "The whole fleet's locks in figures",
        description:
          'Summed over all API and worker processes, which tell of theirs once a second. Quantiles come from buckets ' +
          'whose ends grow by the factor 2^(1/4): a value is never too low and at most 19 % too high.',
        querystring: Type.Object(
          { hours: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HOURS, default: 24 })) },
          { additionalProperties: false },
        ),
        response: { 200: response(StatsSchema, 'The last hours, the present one included'), ...problemResponses(400) },
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
        summary: 'Who holds it, and who waits, in order',
        description: 'Nobody need hold it: then both lists are empty.',
        params: params('sample:renewed'),
        response: { 200: response(LockSchema, 'The lock'), ...problemResponses(400) },
      },
    },
    async (request) => presentLock(await onLockServer(() => locks.inspect(request.params.resource))),
  )

  app.delete(
    '/api/locks/:resource',
    {
      config: { admin: true },
      schema: {
        operationId: 'takeLockAway',
        tags,
        summary: 'Take a lock away from whoever has it (admins)',
        description:
          'The holders are told at once, whoever waits is next, and no write with their tokens is accepted any more. ' +
          'When nobody has it, the fencing token is raised all the same. Kept in the table forced_releases.',
        params: params('sample:stuck'),
        querystring: Type.Object(
          {
            reason: Type.Optional(
              Type.String({ minLength: 1, maxLength: 500, format: PLAIN_TEXT, description: 'For the record' }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: response(TakenSchema, 'Taken away'), ...problemResponses(400, 413, 415) },
      },
    },
    async (request) => {
      const { resource } = request.params
      const { reason = null } = request.query
      const requested_by = request.caller || 'open'
      const [record] = await guarded(() =>
        query<{ id: number; fencing_token: number | null }>(
          client,
          sql`INSERT INTO forced_releases (resource, requested_by, reason) VALUES (${resource}, ${requested_by}, ${reason})
              RETURNING id, (SELECT fencing_token FROM resources WHERE ref = ${resource}) AS fencing_token`,
        ),
      )
      const above = record?.fencing_token ?? 0
      const { token, revoked_holders } = await onLockServer(() => locks.forceRelease(resource, { above }))
      const holders = revoked_holders.map(presentHolder)
      log.warn(
        { resource, requested_by, reason, fencing_token: token, revoked_holders: holders },
        'a lock was taken away',
      )
      // In one statement: a row that is done says that Postgres refuses the old tokens. If this fails, the caller is told
      // so, and repeats it.
      await guarded(() =>
        query(
          client,
          sql`WITH raised AS (UPDATE resources SET fencing_token = ${token} WHERE ref = ${resource} AND fencing_token < ${token})
              UPDATE forced_releases SET revoked_holders = ${JSON.stringify(holders)}, fencing_token = ${token}, completed_at = clock_timestamp()
              WHERE id = ${record?.id}`,
        ),
      )
      return { resource, fencing_token: token, revoked_holders: holders }
    },
  )
}
