/**
 * The public interface of the locks. Invariants: a lease reports its loss before another holder can be granted the lock, by
 * this process's monotonic clock. The token of a lease is higher than every earlier token of the resource, so that the database
 * can refuse a holder that did not check its lease.
 */

/** exclusive: one holder. shared: many, but none beside an exclusive one. permit: at most `limit` holders. */
export type Mode = 'exclusive' | 'shared' | 'permit'

/** Mode and limit of one request. A permit without a limit, and a limit without permits, do not typecheck. */
export type LockMode<M extends Mode = Mode> =
  | { mode?: Extract<M, 'exclusive'>; limit?: never }
  | { mode: Extract<M, 'shared'>; limit?: never }
  | { mode: Extract<M, 'permit'>; limit: number }

export interface LeaseOptions {
  /** How long the lock outlives its last renewal, in ms. Default: the ttl_ms of createLocks. */
  ttl_ms?: number
  /** Cancels the wait, not the held lease. */
  signal?: AbortSignal
  /** The holder's name in LockBusyError and inspect(). Default: the instance, host:pid. */
  owner?: string
  /** Appended to the owner: the work that the process holds the lock for, for instance a job id. */
  job?: string
  /**
   * The token will be higher than this. Pass the fencing token of the database, in case it is higher than the last token that
   * the lock server remembers.
   */
  above?: number
  /**
   * A lease that the caller already holds on this resource (the parent). The new lease is nested in the parent: it has the
   * parent's token, signal and deadlines (ttl_ms, max_hold_ms and progress_ms are ignored), and its release does not release
   * the lock.
   */
  within?: Lease
  /**
   * Maximum time from the grant, in ms. When it ends, the signal of the lease aborts with `why` 'max_hold', and the lock is
   * released on the server at once. Not for remote leases. Default: no limit.
   */
  max_hold_ms?: number
  /**
   * The holder must call lease.progress() or lease.extend() at least this often, in ms, counted from the grant; the automatic
   * heartbeat does not count. If the holder does not, the signal of the lease aborts with `why` 'stalled', and the lock is
   * released on the server at once. A process that wakes from a freeze checks this before it renews the lease. Not for remote
   * leases, which only their owner's heartbeats keep. Default: no limit.
   */
  progress_ms?: number
}

export type TryOptions<M extends Mode = Mode> = LeaseOptions & LockMode<M>

export type AcquireOptions<M extends Mode = Mode> = TryOptions<M> & {
  /** How long to wait in the queue, in ms; 0 is one try without waiting. Default 0. */
  wait_ms?: number
}

/** One resource of acquireAll; the string 'product:1' requests it exclusively. */
export type LockRequest<M extends Mode = Mode> = string | ({ resource: string } & LockMode<M>)

export interface Lease extends AsyncDisposable {
  /** For instance 'product:1'. */
  readonly resource: string
  readonly mode: Mode
  /** Fencing token: an integer below 2^53, close to the server's time in µs. */
  readonly token: number
  /** Aborts with a LeaseLostError before the TTL can have passed. A release does not abort the signal. */
  readonly signal: AbortSignal
  /**
   * Milliseconds until the lease counts as lost unless it is renewed, by the monotonic clock; 0 if the lease is lost or released.
   */
  readonly remaining_ms: number
  /**
   * Checks that the lease is held, by the monotonic clock, so the check is right even after the event loop was blocked.
   * @throws LeaseLostError when the lease is lost, released or expired
   */
  assertValid(): void
  /**
   * Reports that the holder makes progress, which restarts progress_ms. Never throws, and does not revive a lease whose holder
   * has missed the deadline.
   */
  progress(): void
  /** Renews the lease now, which also counts as progress. Resolves with the number of waiters. @throws LeaseLostError */
  extend(): Promise<{ waiting: number }>
  /** Releases the lease in one round trip. Idempotent; never throws. */
  release(): Promise<ReleaseResult>
}

/** Several leases acquired together. The set is valid while all of them are. */
export interface LeaseSet extends AsyncDisposable {
  /** resource → lease, sorted by resource */
  readonly leases: ReadonlyMap<string, Lease>
  /** Aborts when the first of the leases is lost. */
  readonly signal: AbortSignal
  /** The shortest remaining_ms among the leases. */
  readonly remaining_ms: number
  /** Checks that all leases are held. @throws LeaseLostError */
  assertValid(): void
  /** Calls progress() of all leases. */
  progress(): void
  release(): Promise<void>
}

/**
 * Why a lease ended. 'taken': a forced release revoked the lock, or another owner holds it. 'stalled': the holder missed
 * progress_ms. 'max_hold': the holder held the lock for max_hold_ms.
 */
export type LostReason = 'expired' | 'taken' | 'unreachable' | 'released' | 'stalled' | 'max_hold'

export type ReleaseResult = { released: true } | { released: false; reason: 'expired' | 'taken' | 'unreachable' }

export interface Locks<M extends Mode = Mode> {
  /**
   * Acquires the lock, and waits in its queue for up to wait_ms. Once a caller is in the queue, it keeps waiting while the lock
   * server is away, and joins the queue again when the server is back. If the server does not answer the first request, the
   * call rejects at once.
   * @throws LockBusyError, the signal's reason, or the error of the lock server; after close() an error with the code
   * 'closed'; TypeError or RangeError for an invalid argument, as every function here
   */
  acquire(resource: string, options?: AcquireOptions<M>): Promise<Lease>
  /** Tries once; returns undefined if the lock has another holder or waiters. @throws the error of the lock server */
  tryAcquire(resource: string, options?: TryOptions<M>): Promise<Lease | undefined>
  /**
   * Runs the body under a lease and then releases it. Rejects with the error of the body, never with an error of the
   * release.
   */
  withLease<T>(resource: string, options: AcquireOptions<M>, body: (lease: Lease) => Promise<T>): Promise<T>
  /**
   * With `onBusy`: if the lock is busy, resolves with that value, or with what that function returns, instead of rejecting.
   */
  withLease<T, F>(
    resource: string,
    options: AcquireOptions<M> & { onBusy: F | ((busy: LockBusyError) => F) },
    body: (lease: Lease) => Promise<T>,
  ): Promise<T | F>
  /**
   * Acquires all resources or none, in any mixture of modes. A resource that is named twice counts once, exclusive before
   * shared. The call waits for the resources in the order of their names, so that two callers of acquireAll never deadlock each
   * other. max_hold_ms and progress_ms count from the moment when all leases are held.
   * @throws LockBusyError for the first resource that was not free in time, the signal's reason, or LeaseLostError when a lease
   * was lost during the wait for the others and no time is left
   */
  acquireAll(
    requests: readonly LockRequest<M>[],
    options?: Omit<LeaseOptions, 'within'> & { wait_ms?: number },
  ): Promise<LeaseSet>
  /**
   * Tries to acquire several locks in one round trip, without waiting. Resolves with a map of the acquired leases. If the server
   * reports an error, all of them are released.
   */
  tryAcquireMany(resources: readonly string[], options?: TryOptions<M>): Promise<Map<string, Lease>>
  releaseMany(leases: Iterable<Lease>): Promise<void>
  /** Leases that this process does not renew. */
  readonly remote: RemoteLeases<M>
  /** Returns the holders and the waiters of a lock. @throws the error of the lock server */
  inspect(resource: string): Promise<LockState>
  /** Returns all resources with holders or waiters, sorted by name. Locks held for less than 500 ms may be missing. */
  list(): Promise<LockState[]>
  /**
   * Revokes the lock from every holder. The signals of the holders' leases abort at once (at the next heartbeat if the message is
   * lost). Every later token is higher than the returned token: a caller that raises the fencing token in SQL to the returned
   * one stops the old holders there, too.
   */
  forceRelease(
    resource: string,
    options?: { above?: number },
  ): Promise<{ token: number; revoked_holders: LockState['holders'] }>
  /** Ends waits with an error, aborts and releases held leases, closes the subscription. */
  close(): Promise<void>
}

/** A lease that only its owner's heartbeats keep: any process that has the handle can renew or release it. */
export interface RemoteLease {
  /** Opaque, unguessable, safe in a URL. The holder of the handle is the owner. */
  handle: string
  resource: string
  mode: Mode
  token: number
  ttl_ms: number
  /** When the lease expires, by this process's wall clock, in ms since 1970; not later than the end on the lock server. */
  expires_at_ms: number
}

export interface RemoteLeases<M extends Mode = Mode> {
  /**
   * Acquires a remote lease. The options within, max_hold_ms and progress_ms are refused, because this process neither renews
   * nor ends the lease.
   * @throws the same errors as Locks.acquire
   */
  acquire(resource: string, options?: AcquireOptions<M>): Promise<RemoteLease>
  /** Renews a lease. @throws LeaseLostError, RangeError for an invalid handle, or the error of the lock server */
  extend(handle: string): Promise<RemoteLease>
  /** Releases a lease. @throws RangeError for an invalid handle, or the error of the lock server */
  release(handle: string): Promise<ReleaseResult>
}

export interface LockState {
  resource: string
  /** The last token that was granted, or that a forced release set; 0 if the server remembers none. */
  fencing_token: number
  holders: { owner: string; mode: Mode; limit?: number; token: number; since_ms: number; ttl_left_ms: number }[]
  /** The waiters, in the order in which they will get the lock. */
  waiters: { owner: string; mode: Mode; limit?: number; since_ms: number }[]
}

/** Optional callbacks for metrics and logs. They must not throw. */
export interface LockEvents {
  acquired?(resource: string, waited_ms: number): void
  failed?(resource: string, reason: 'lock_busy' | 'aborted' | 'closed' | 'unreachable'): void
  contended?(resource: string): void
  lost?(resource: string, why: LostReason, lease: { token: number; owner: string; held_ms: number }): void
  released?(resource: string, held_ms: number): void
  /** Called once for a lease that is held longer than expected. */
  longHold?(resource: string, lease: { token: number; owner: string; held_ms: number }): void
  /** Called when a renewal succeeded with less than a sixth of the TTL left. */
  lateRenewal?(resource: string, slack_ms: number): void
  /**
   * Called at start if the user of the lock server lacks this right, for instance '+publish on &lock:wake:*'; once per right and
   * server. Without this callback the process emits a warning.
   */
  denied?(right: string): void
}

export class LockBusyError extends Error {
  override name = 'LockBusyError'
  readonly code = 'lock_busy'
  readonly resource: string
  /** The holder; absent if the lock was free but had waiters. */
  readonly holder?: string
  /** Number of waiters. */
  readonly waiting: number
  /** Milliseconds after which the lock is free unless its holder renews it. */
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
