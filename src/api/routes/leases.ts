/**
 * Leases for services in any language. Invariant: a lease taken here lives by its owner's heartbeats alone; no process
 * of ours keeps it, so any of them may renew or release it. Who is gone before it was told of its lease has none.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { UnavailableError } from '../../shared/breaker.ts'
import {
  type AcquireOptions,
  LeaseLostError,
  LockBusyError,
  type LockState,
  type Locks,
  type Mode,
  type RemoteLease,
} from '../../shared/locks/api.ts'
import { handleOf } from '../../shared/locks/core/lease-handle.ts'
import { badField, Problem, stopping } from '../../shared/problem.ts'
import { lockBusy, onLockServer } from '../http/lock-problems.ts'
import { problemResponses, response } from '../http/responses.ts'
import { Identifier, LEASE_ID_PATTERN, Ref, Time } from '../http/schemas.ts'

/** Below this a heartbeat over HTTP is a matter of luck; above a day nobody recovers from a crash. */
const [MIN_TTL_MS, MAX_TTL_MS] = [100, 86_400_000]
/** What proxies between here and the client let a request wait. */
const MAX_WAIT_MS = 60_000
const MAX_PERMITS = 1_000

const Common = {
  resource: Ref([], '`type:id`: whatever both sides call what they share; it need not exist as a resource for sale'),
  ttl_ms: Type.Integer({
    minimum: MIN_TTL_MS,
    maximum: MAX_TTL_MS,
    description: 'The lease ends so long after its last heartbeat: twice the longest pause of its holder',
  }),
  wait_ms: Type.Optional(
    Type.Integer({ minimum: 0, maximum: MAX_WAIT_MS, description: 'How long to stand in line; 0 (default): one try' }),
  ),
  owner: Identifier({ description: 'Told to those who find the lock taken: a host, a process, a job' }),
}
const Whole = Type.Object(
  { ...Common, mode: Type.Enum(['exclusive', 'shared']) },
  { title: 'exclusive or shared', additionalProperties: false },
)
const Permit = Type.Object(
  {
    ...Common,
    mode: Type.Literal('permit'),
    limit: Type.Integer({ minimum: 1, maximum: MAX_PERMITS, description: 'How many may hold a permit at once' }),
  },
  { title: 'one of `limit` permits', additionalProperties: false },
)
const Wanted = Type.Unsafe<Type.Static<typeof Whole> | Type.Static<typeof Permit>>({
  type: 'object',
  discriminator: { propertyName: 'mode' },
  required: ['mode'],
  oneOf: [Whole, Permit],
  examples: [{ resource: 'report:daily', mode: 'exclusive', ttl_ms: 10_000, wait_ms: 0, owner: 'cron@host-1' }],
})

const LeaseSchema = Type.Object({
  lease_id: Type.String({ description: 'Who knows it is the owner: keep it secret' }),
  resource: Type.String(),
  mode: Type.Enum(['exclusive', 'shared', 'permit']),
  fencing_token: Type.Integer({ description: 'Higher than every token given for the resource before' }),
  expires_at: Type.String({ format: 'date-time', description: 'Unless it is renewed before; not later than in truth' }),
})

const present = (lease: RemoteLease): Type.Static<typeof LeaseSchema> => ({
  lease_id: lease.handle,
  resource: lease.resource,
  mode: lease.mode,
  fencing_token: lease.token,
  expires_at: new Date(lease.expires_at_ms).toISOString(),
})

export const WaiterSchema = Type.Object({
  owner: Type.String(),
  mode: Type.Enum(['exclusive', 'shared', 'permit']),
  limit: Type.Optional(Type.Integer()),
  since: Time,
})
export const presentWaiter = ({ since_ms, ...waiter }: LockState['waiters'][number]) => ({
  ...waiter,
  since: new Date(since_ms).toISOString(),
})

export interface LeaseRoutesDeps {
  locks: Locks
  /** What the lock server can do: a quorum has no permits. */
  modes: readonly Mode[]
}

const BUSY = new LockBusyError('report:daily', { holder: 'cron@host-2', waiting: 0, retry_after_ms: 8_400 })
const ended = (detail: string) => new Problem(410, 'lease_lost', detail)
const malformed = () => badField('lease_id', 'is no lease_id that was given out')

const unsupported = (mode: Mode) =>
  badField('mode', `${mode} is not available on this lock server`, 422, 'mode_unavailable')

export function leaseRoutes(instance: FastifyInstance, { locks, modes }: LeaseRoutesDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const tags = ['leases']
  const params = (sample: { lease_id: string }) =>
    Type.Object({
      lease_id: Type.String({ pattern: LEASE_ID_PATTERN, maxLength: 4_000, examples: [sample.lease_id] }),
    })

  /** Of the waits there are: what ends them. */
  const waits = new Set<AbortController>()
  let draining = false
  instance.door.onDrain(() => {
    draining = true
    for (const one of waits) one.abort(stopping())
  })

  app.post(
    '/api/leases',
    {
      schema: {
        operationId: 'acquireLease',
        tags,
        summary: 'Take a lock, or stand in line for it',
        description:
          'The lease ends by itself `ttl_ms` after its last heartbeat (PUT). Whoever writes under it sends the fencing ' +
          'token along, so that the database can refuse a holder that was late. Hanging up ends the wait.',
        body: Wanted,
        response: {
          201: response(LeaseSchema, 'Taken'),
          ...problemResponses(400, lockBusy(BUSY, []), 413, 415, unsupported('permit')),
        },
      },
    },
    async (request, reply) => {
      const { resource, owner, ttl_ms, wait_ms = 0, ...ask } = request.body
      if (!modes.includes(ask.mode)) throw unsupported(ask.mode)
      const gone = new AbortController()
      let lease: RemoteLease | undefined
      let answered = false
      reply.raw.once('finish', () => {
        answered = true
      })
      waits.add(gone)
      if (draining) gone.abort(stopping())
      reply.raw.once('close', () => {
        waits.delete(gone)
        gone.abort()
        // Taken, but the answer did not get out: nobody knows the lease, so nobody would let it go.
        if (lease && !answered) letGo(lease)
      })
      const options = { ...ask, owner, ttl_ms, wait_ms, signal: gone.signal } as AcquireOptions
      try {
        lease = await onLockServer(() => locks.remote.acquire(resource, options))
      } catch (error) {
        if (gone.signal.reason instanceof Problem) throw gone.signal.reason
        if (gone.signal.aborted) return reply.hijack()
        // All else was checked by the schema: a quorum has a longest TTL of its own.
        if (error instanceof RangeError) throw badField('ttl_ms', `is not possible here: ${error.message}`)
        throw error instanceof LockBusyError ? await busy(error) : error
      }
      if (gone.signal.aborted && !(gone.signal.reason instanceof Problem)) {
        letGo(lease)
        return reply.hijack()
      }
      return reply.code(201).send(present(lease))
    },
  )

  /** Nobody is left to be told of a failure: then the lease ends with its TTL. */
  function letGo(lease: RemoteLease): void {
    locks.remote.release(lease.handle).catch(() => {})
  }

  /** Says who has the lock and who is in line for it. */
  async function busy(error: LockBusyError): Promise<Problem> {
    const { waiters } = await onLockServer(() => locks.inspect(error.resource))
    return lockBusy(error, waiters.map(presentWaiter))
  }

  app.put(
    '/api/leases/:lease_id',
    {
      schema: {
        operationId: 'renewLease',
        tags,
        summary: 'Heartbeat: the lease lives for another ttl_ms from now on',
        description: 'A third of the TTL apart, so that one that fails can be repeated.',
        params: params(SAMPLE_LEASES.renewed),
        response: { 200: response(LeaseSchema, 'Renewed'), ...problemResponses(400, 410, 413, 415) },
      },
    },
    async (request) => {
      try {
        return present(await onLockServer(() => locks.remote.extend(request.params.lease_id)))
      } catch (error) {
        if (error instanceof RangeError) throw malformed()
        throw error instanceof LeaseLostError ? ended(`${error.message}.`) : error
      }
    },
  )

  app.delete(
    '/api/leases/:lease_id',
    {
      schema: {
        operationId: 'releaseLease',
        tags,
        summary: 'Let go; whoever is next in line has the lock',
        params: params(SAMPLE_LEASES.released),
        response: { 204: Type.Null({ description: 'Released' }), ...problemResponses(400, 410, 413, 415) },
      },
    },
    async (request, reply) => {
      try {
        const result = await onLockServer(() => locks.remote.release(request.params.lease_id))
        if (result.released) return reply.code(204).send(null)
        throw result.reason === 'unreachable'
          ? new UnavailableError('the lock server', result.reason)
          : ended(`The lease is lost: ${result.reason}.`)
      } catch (error) {
        throw error instanceof RangeError ? malformed() : error
      }
    },
  )
}

/** A lease that ops/seed.ts takes for the examples: everybody knows its id, so it protects nothing. */
function sample(name: string) {
  const lock = { resource: `sample:${name}`, mode: 'exclusive', id: 'x 86400000 sample/0-sample sample' } as const
  const ttl_ms = 86_400_000
  return { ...lock, ttl_ms, lease_id: handleOf({ ...lock, ttl_ms, token: 1, since_ms: 1_795_255_200_000 }) }
}
export const SAMPLE_LEASES = { renewed: sample('renewed'), released: sample('released'), stuck: sample('stuck') }
