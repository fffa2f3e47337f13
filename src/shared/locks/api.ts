/**
 * What a caller of the locks sees. The invariant: a lease says that it is lost before anybody else can have the lock,
 * by this process's monotonic clock; and its token is higher than every token given for the resource before it, so
 * that the database can refuse a holder who did not look.
 */

/** exclusive: one holder. shared: many, but none beside an exclusive one. permit: at most `limit` holders. */
export type Mode = 'exclusive' | 'shared' | 'permit'

/** What is asked of one resource. A permit without a limit, and a limit without permits, do not typecheck. */
export type LockMode<M extends Mode = Mode> =
  | { mode?: Extract<M, 'exclusive'>; limit?: never }
  | { mode: Extract<M, 'shared'>; limit?: never }
  | { mode: Extract<M, 'permit'>; limit: number }

export interface LeaseOptions {
  /** How long the lock outlives its last renewal, in ms. Default: what createLocks was given. */
  ttl_ms?: number
  /** Cancels the wait, not the held lease. */
  signal?: AbortSignal
  /** Shown to others as the holder. Default: the instance, host:pid. */
  owner?: string
  /** Added to the owner: what the process holds it for, for instance a job's id. */
  job?: string
  /** The token must exceed this floor: SQL holds a higher fence than the lock server remembers. */
  above?: number
  /**
   * A lease that the caller already has on this resource: the new one is a part of it, with its token, signal and
   * deadlines (ttl_ms, max_hold_ms and progress_ms are the whole's), and its release leaves the lock to it.
   */
  within?: Lease
  /**
   * The lease is not renewed beyond this many ms after it was granted: its signal aborts with `why` 'max_hold', and the
   * lock is released on the server at once. Not for remote leases. Default: no limit.
   */
  max_hold_ms?: number
  /**
   * The holder must call lease.progress() or lease.extend() at least this often, from the grant on, in ms; the automatic
   * heartbeat does not count. When it has not, its signal aborts with `why` 'stalled', and the lock is released on the
   * server at once. A process that wakes from a freeze judges this before it renews. Not for remote leases, which live
   * by their owner's heartbeats alone. Default: no limit.
   */
  progress_ms?: number
}

export type TryOptions<M extends Mode = Mode> = LeaseOptions & LockMode<M>

export type AcquireOptions<M extends Mode = Mode> = TryOptions<M> & {
  /** How long to wait in line, in ms; 0 is one try without waiting. Default 0. */
  wait_ms?: number
}

/** One of several: 'product:1' is exclusive. */
export type LockRequest<M extends Mode = Mode> = string | ({ resource: string } & LockMode<M>)

export interface Lease extends AsyncDisposable {
  /** For instance 'product:1'. */
  readonly resource: string
  readonly mode: Mode
  /** Fencing token: an integer below 2^53 that looks like the server's time in µs. */
  readonly token: number
  /** Aborts with a LeaseLostError before the TTL can have passed. Not aborted by release. */
  readonly signal: AbortSignal
  /** How long until the lease counts as lost if it is not renewed, in ms, by the monotonic clock; 0 when lost or released. */
  readonly remaining_ms: number
  /** @throws LeaseLostError when lost, released, or out of time on the monotonic clock: also after a blocked event loop. */
  assertValid(): void
  /** The holder is at work: starts progress_ms again. Never throws, and does not revive a lease that has missed it. */
  progress(): void
  /** Renews now, and counts as progress. Resolves with how many wait behind this lease. @throws LeaseLostError */
  extend(): Promise<{ waiting: number }>
  /** Idempotent, one round trip, never throws. */
  release(): Promise<ReleaseResult>
}

/** Several leases that were taken together: as valid as the weakest of them. */
export interface LeaseSet extends AsyncDisposable {
  /** By resource, in the order of their names. */
  readonly leases: ReadonlyMap<string, Lease>
  /** Aborts when the first of them is lost. */
  readonly signal: AbortSignal
  /** Of the first of them that would be lost. */
  readonly remaining_ms: number
  /** @throws LeaseLostError */
  assertValid(): void
  /** As Lease.progress, for all of them. */
  progress(): void
  release(): Promise<void>
}

/** 'stalled': the holder has missed progress_ms. 'max_hold': it was held for max_hold_ms. */
export type LostReason = 'expired' | 'taken' | 'unreachable' | 'released' | 'stalled' | 'max_hold'

export type ReleaseResult = { released: true } | { released: false; reason: 'expired' | 'taken' | 'unreachable' }

export interface Locks<M extends Mode = Mode> {
  /**
   * Once in line, it waits on while the lock server is away, and stands in line again when it is back; a server that does
   * not answer the first request is an error at once.
   * @throws LockBusyError, the signal's reason, or the error of the lock server; after close() an error with the code
   *   'closed'; TypeError or RangeError for what is no argument, as every function here
   */
  acquire(resource: string, options?: AcquireOptions<M>): Promise<Lease>
  /** One try; undefined when somebody else holds the lock or waits for it. @throws the error of the lock server */
  tryAcquire(resource: string, options?: TryOptions<M>): Promise<Lease | undefined>
  /** Releases when the body ends, and rejects with what the body rejects with: never because of the release. */
  withLease<T>(resource: string, options: AcquireOptions<M>, body: (lease: Lease) => Promise<T>): Promise<T>
  /** With `onBusy`, that value (or what it returns) takes the place of a LockBusyError. */
  withLease<T, F>(
    resource: string,
    options: AcquireOptions<M> & { onBusy: F | ((busy: LockBusyError) => F) },
    body: (lease: Lease) => Promise<T>,
  ): Promise<T | F>
  /**
   * All of them or none, in any mixture of modes; one that is named twice counts once, exclusive before shared. Waits
   * in the order of their names, so that nobody who does the same is deadlocked with it. max_hold_ms and progress_ms count
   * from when all are held.
   * @throws LockBusyError for the first that was not free in time, the signal's reason, or LeaseLostError when one was
   *   lost while others were waited for and no time is left
   */
  acquireAll(
    requests: readonly LockRequest<M>[],
    options?: Omit<LeaseOptions, 'within'> & { wait_ms?: number },
  ): Promise<LeaseSet>
  /** Several without waiting, in one round trip: a map of those obtained. An error of the server gives back all. */
  tryAcquireMany(resources: readonly string[], options?: TryOptions<M>): Promise<Map<string, Lease>>
  releaseMany(leases: Iterable<Lease>): Promise<void>
  /** Leases that do not live by this process. */
  readonly remote: RemoteLeases<M>
  /** Who holds what and who waits. @throws the error of the lock server */
  inspect(resource: string): Promise<LockState>
  /** All that are held or waited for, by name. What is held for less than 500 ms may be left out. */
  list(): Promise<LockState[]>
  /**
   * Takes the lock away from whoever has it. Their signals abort at once (at the next heartbeat where no message gets
   * through). Every later token is above the answer's: who raises SQL's fence to it shuts the old holders out there, too.
   */
  forceRelease(
    resource: string,
    options?: { above?: number },
  ): Promise<{ token: number; revoked_holders: LockState['holders'] }>
  /** Ends waits with an error, aborts and releases what is still held, closes the subscriber. */
  close(): Promise<void>
}

/** A lease that lives by its owner's heartbeats alone: any process may renew or release it by its handle. */
export interface RemoteLease {
  /** Opaque, unguessable, safe in a URL: who has it is the owner. */
  handle: string
  resource: string
  mode: Mode
  token: number
  ttl_ms: number
  /** This process's wall clock, in ms since 1970: not later than the end on the lock server. */
  expires_at_ms: number
}

export interface RemoteLeases<M extends Mode = Mode> {
  /** Without within, max_hold_ms and progress_ms: this process neither renews nor ends it. @throws as Locks.acquire */
  acquire(resource: string, options?: AcquireOptions<M>): Promise<RemoteLease>
  /** @throws LeaseLostError, RangeError for what is no handle, or the error of the lock server */
  extend(handle: string): Promise<RemoteLease>
  /** @throws RangeError for what is no handle, or the error of the lock server */
  release(handle: string): Promise<ReleaseResult>
}

export interface LockState {
  resource: string
  /** The last token given, or the fence that a forced release left; 0 when none is remembered. */
  fencing_token: number
  holders: { owner: string; mode: Mode; limit?: number; token: number; since_ms: number; ttl_left_ms: number }[]
  /** In the order of their turns. */
  waiters: { owner: string; mode: Mode; limit?: number; since_ms: number }[]
}

/** Optional callbacks for metrics and logs. They must not throw. */
export interface LockEvents {
  acquired?(resource: string, waited_ms: number): void
  failed?(resource: string, reason: 'lock_busy' | 'aborted' | 'closed' | 'unreachable'): void
  contended?(resource: string): void
  lost?(resource: string, why: LostReason, lease: { token: number; owner: string; held_ms: number }): void
  released?(resource: string, held_ms: number): void
  /** Held longer than expected; once a lease. */
  longHold?(resource: string, lease: { token: number; owner: string; held_ms: number }): void
  /** A renewal came through when less than a sixth of the TTL was left. */
  lateRenewal?(resource: string, slack_ms: number): void
  /**
   * At start: the user of the lock server lacks this right, for instance '+publish on &lock:wake:*'. Once a right and
   * server. Without this callback it is a warning of the process.
   */
  denied?(right: string): void
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
