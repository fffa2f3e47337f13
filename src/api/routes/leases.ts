/**
 * Leases for services in any language. Invariant: only its owner's heartbeats keep a lease over HTTP; no API process owns the
 * lease, so any API process can renew or release it. If the client disconnects before the response is sent, the API releases
 * the lease.
 */
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
import { fieldProblem, Problem, stopping } from '../../shared/problem.ts'
import { lockBusy, onLockServer } from '../http/lock-problems.ts'
import { problemResponses, response } from '../http/responses.ts'
import { SAMPLE_LEASES } from '../http/samples.ts'
import { Identifier, LEASE_ID_PATTERN, Ref, Time } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'

/**
 * Bounds of a TTL. Below 100 ms, heartbeats over HTTP are unreliable; above a day, a crashed owner blocks the lock for too
 * long.
 */
const [MIN_TTL_MS, MAX_TTL_MS] = [100, 86_400_000]
/** Longest wait for a lock, in milliseconds: proxies between the API and the client end longer requests. */
const MAX_WAIT_MS = 60_000
const MAX_PERMITS = 1_000

const Common = {
  resource: Ref(
    [],
    '`type:id`: the name that all users of the lock agree on; it need not exist as a resource for sale',
  ),
  ttl_ms: Type.Integer({
    minimum: MIN_TTL_MS,
    maximum: MAX_TTL_MS,
    description: 'The lease expires this long after its last heartbeat; choose twice the longest pause of its owner',
  }),
  wait_ms: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: MAX_WAIT_MS,
      description: 'How long to wait in the wait queue; 0 (default): one attempt',
    }),
  ),
  owner: Identifier({
    description: 'Name of the holder, shown to callers that find the lock busy: a host, a process, a job',
  }),
}
const Whole = Type.Object(
  { ...Common, mode: Type.Enum(['exclusive', 'shared']) },
  { title: 'exclusive or shared', additionalProperties: false },
)
const Permit = Type.Object(
  {
    ...Common,
    mode: Type.Literal('permit'),
    limit: Type.Integer({ minimum: 1, maximum: MAX_PERMITS, description: 'Most holders of a permit at once' }),
  },
  { title: 'one of `limit` permits', additionalProperties: false },
)
const AcquireRequest = Type.Unsafe<Type.Static<typeof Whole> | Type.Static<typeof Permit>>({
  type: 'object',
  discriminator: { propertyName: 'mode' },
  required: ['mode'],
  oneOf: [Whole, Permit],
  examples: [{ resource: 'report:daily', mode: 'exclusive', ttl_ms: 10_000, wait_ms: 0, owner: 'cron@host-1' }],
})

const LeaseSchema = Type.Object({
  lease_id: Type.String({ description: 'A caller with this id can renew and release the lease: keep it secret' }),
  resource: Type.String(),
  mode: Type.Enum(['exclusive', 'shared', 'permit']),
  fencing_token: Type.Integer({ description: 'Higher than every earlier token of the resource' }),
  expires_at: Type.String({
    format: 'date-time',
    description: 'When the lease expires unless it is renewed before; never later than the real expiry',
  }),
})

const toResponse = (lease: RemoteLease): Type.Static<typeof LeaseSchema> => ({
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
export const waiterToResponse = ({ since_ms, ...waiter }: LockState['waiters'][number]) => ({
  ...waiter,
  since: new Date(since_ms).toISOString(),
})

export interface LeaseOptions {
  locks: Locks
  /** the modes that the lock server supports; Redlock has no permits */
  modes: readonly Mode[]
}

const BUSY = new LockBusyError('report:daily', { holder: 'cron@host-2', waiting: 0, retry_after_ms: 8_400 })
const ended = (detail: string) => new Problem(410, 'lease_lost', detail)
const malformed = () => fieldProblem('lease_id', 'is not a valid lease_id')

const unsupported = (mode: Mode) =>
  fieldProblem('mode', `${mode} is not available on this lock server`, 422, 'mode_unavailable')

const TAGS = ['leases']
const params = (sample: { lease_id: string }) =>
  Type.Object({
    lease_id: Type.String({ pattern: LEASE_ID_PATTERN, maxLength: 4_000, examples: [sample.lease_id] }),
  })

export async function leaseRoutes(app: TypedApp, { locks, modes }: LeaseOptions): Promise<void> {
  acquireRoute(app, locks, modes)
  renewRoute(app, locks)
  releaseRoute(app, locks)
}

const Acquire = {
  operationId: 'acquireLease',
  tags: TAGS,
  summary: 'Acquire a lease',
  description:
    'The lease expires `ttl_ms` after its last heartbeat (PUT). Store the fencing token with every write under the ' +
    'lease, so that the database can refuse a holder whose lease has expired. Closing the connection ends the wait.',
  body: AcquireRequest,
  response: {
    201: response(LeaseSchema, 'Acquired'),
    ...problemResponses(400, lockBusy(BUSY, []), 413, 415, unsupported('permit')),
  },
}

function acquireRoute(app: TypedApp, locks: Locks, modes: readonly Mode[]): void {
  /** controllers that end the open waits */
  const waits = new Set<AbortController>()
  let draining = false
  app.door.onDrain(() => {
    draining = true
    for (const one of waits) one.abort(stopping())
  })
  /**
   * Releases a lease in the background. Ignores a failure, because no client waits for the result: the TTL ends the lease
   * then.
   */
  const releaseUnsent = (lease: RemoteLease) => void locks.remote.release(lease.handle).catch(() => {})

  app.post('/api/leases', { schema: Acquire }, async (request, reply) => {
    const { resource, owner, ttl_ms, wait_ms = 0, ...lockMode } = request.body
    if (!modes.includes(lockMode.mode)) throw unsupported(lockMode.mode)
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
      // The lease was acquired, but the response was not sent: no client knows the lease_id, so no client would release it.
      if (lease && !answered) releaseUnsent(lease)
    })
    const options = { ...lockMode, owner, ttl_ms, wait_ms, signal: gone.signal } as AcquireOptions
    try {
      lease = await onLockServer(() => locks.remote.acquire(resource, options))
    } catch (error) {
      if (gone.signal.reason instanceof Problem) throw gone.signal.reason
      if (gone.signal.aborted) return reply.hijack()
      // Only the TTL can be wrong, because the schema has checked everything else: Redlock has a lower maximum for it.
      if (error instanceof RangeError) throw fieldProblem('ttl_ms', `is not possible here: ${error.message}`)
      throw error instanceof LockBusyError ? await busy(locks, error) : error
    }
    if (gone.signal.aborted && !(gone.signal.reason instanceof Problem)) {
      releaseUnsent(lease)
      return reply.hijack()
    }
    return reply.code(201).send(toResponse(lease))
  })
}

/** Returns the 409 with the holder and the wait queue of the lock. */
async function busy(locks: Locks, error: LockBusyError): Promise<Problem> {
  const { waiters } = await onLockServer(() => locks.inspect(error.resource))
  return lockBusy(error, waiters.map(waiterToResponse))
}

function renewRoute(app: TypedApp, locks: Locks): void {
  const schema = {
    operationId: 'renewLease',
    tags: TAGS,
    summary: 'Renew a lease (heartbeat)',
    description:
      'The lease then expires `ttl_ms` from now. Send a heartbeat every third of the TTL, so that a failed one can be repeated.',
    params: params(SAMPLE_LEASES.renewed),
    response: { 200: response(LeaseSchema, 'Renewed'), ...problemResponses(400, 410, 413, 415) },
  }
  app.put('/api/leases/:lease_id', { schema }, async (request) => {
    try {
      return toResponse(await onLockServer(() => locks.remote.extend(request.params.lease_id)))
    } catch (error) {
      if (error instanceof RangeError) throw malformed()
      throw error instanceof LeaseLostError ? ended(`${error.message}.`) : error
    }
  })
}

function releaseRoute(app: TypedApp, locks: Locks): void {
  const schema = {
    operationId: 'releaseLease',
    tags: TAGS,
    summary: 'Release a lease',
    description: 'The first waiter acquires the lock.',
    params: params(SAMPLE_LEASES.released),
    response: { 204: Type.Null({ description: 'Released' }), ...problemResponses(400, 410, 413, 415) },
  }
  app.delete('/api/leases/:lease_id', { schema }, async (request, reply) => {
    try {
      const result = await onLockServer(() => locks.remote.release(request.params.lease_id))
      if (result.released) return reply.code(204).send(null)
      throw result.reason === 'unreachable'
        ? new UnavailableError('the lock server', result.reason)
        : ended(`The lease is lost: ${result.reason}.`)
    } catch (error) {
      throw error instanceof RangeError ? malformed() : error
    }
  })
}
