/**
 * What a caller of the locks sees. The invariant: a lease says that it is lost before anybody else can have the lock,
 * by this process's monotonic clock; and its token is higher than every token given for the resource before it, so
 * that the database can refuse a holder who did not look.
 */

export interface AcquireOptions {
  /** How long to wait in line, in ms; 0 is one try without waiting. Default 0. */
  wait_ms?: number
  /** How long the lock outlives its last renewal, in ms. Default: what createLocks was given. */
  ttl_ms?: number
  /** Cancels the wait, not the held lease. */
  signal?: AbortSignal
  /** Shown to others as the holder. Default: the instance, host:pid. */
  owner?: string
  /** The token must exceed this floor: SQL holds a higher fence than the lock server remembers. */
  above?: number
}

export interface Lease extends AsyncDisposable {
  /** For instance 'product:1'. */
  readonly resource: string
  /** Fencing token: an integer below 2^53 that looks like the server's time in µs. */
  readonly token: number
  /** Aborts with a LeaseLostError before the TTL can have passed. Not aborted by release. */
  readonly signal: AbortSignal
  /** @throws LeaseLostError when lost, released, or out of time on the monotonic clock: also after a blocked event loop. */
  assertValid(): void
  /** Renews now. Resolves with how many wait behind this lease. @throws LeaseLostError */
  extend(): Promise<{ waiting: number }>
  /** Idempotent, one round trip, never throws. */
  release(): Promise<ReleaseResult>
}

export type LostReason = 'expired' | 'taken' | 'unreachable' | 'released'

export type ReleaseResult = { released: true } | { released: false; reason: 'expired' | 'taken' | 'unreachable' }

export interface Locks {
  /** @throws LockBusyError, the signal's reason, or the error of the lock server */
  acquire(resource: string, options?: AcquireOptions): Promise<Lease>
  /** One try; undefined when somebody else holds the lock or waits for it. @throws the error of the lock server */
  tryAcquire(resource: string, options?: TryOptions): Promise<Lease | undefined>
  /** Releases when the body ends, and rejects with what the body rejects with: never because of the release. */
  withLease<T>(resource: string, options: AcquireOptions, body: (lease: Lease) => Promise<T>): Promise<T>
  /** Several without waiting, in one round trip: a map of those obtained. An error of the server gives back all. */
  tryAcquireMany(resources: readonly string[], options?: TryOptions): Promise<Map<string, Lease>>
  releaseMany(leases: Iterable<Lease>): Promise<void>
  /** Ends waits with an error, aborts and releases what is still held, closes the subscriber. */
  close(): Promise<void>
}

export type TryOptions = Omit<AcquireOptions, 'wait_ms'>

/** Optional callbacks for metrics and logs. They must not throw. */
export interface LockEvents {
  acquired?(resource: string, waited_ms: number): void
  failed?(resource: string, reason: 'lock_busy' | 'aborted' | 'closed' | 'unreachable'): void
  contended?(resource: string): void
  lost?(resource: string, why: LostReason): void
  released?(resource: string, held_ms: number): void
}

export class LockBusyError extends Error {
  override name = 'LockBusyError'
  readonly code = 'lock_busy'
  readonly resource: string
  /** Who holds it; absent when it was free, but others were in line. */
  readonly holder?: string
  /** How many stand in line for it. */
  readonly waiting: number
  /** After this the lock is free unless its holder renews it. */
  readonly retry_after_ms: number

  constructor(resource: string, busy: { holder: string | undefined; waiting: number; retry_after_ms: number }) {
    super(`${resource} is locked${busy.holder === undefined ? '' : ` by ${busy.holder}`}, ${busy.waiting} waiting`)
    this.resource = resource
    if (busy.holder !== undefined) this.holder = busy.holder
    this.waiting = busy.waiting
    this.retry_after_ms = busy.retry_after_ms
  }
}

export class LeaseLostError extends Error {
  override name = 'LeaseLostError'
  readonly code = 'lease_lost'
  readonly resource: string
  readonly token: number
  readonly why: LostReason

  constructor(resource: string, token: number, why: LostReason) {
    super(`the lease on ${resource} (token ${token}) is lost: ${why}`)
    this.resource = resource
    this.token = token
    this.why = why
  }
}
