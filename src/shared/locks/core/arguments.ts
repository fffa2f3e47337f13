/**
 * Validates the arguments of callers, once, at the public functions. Invariant: the functions refuse an invalid argument before
 * they send a request to the lock server, with a TypeError (wrong type) or a RangeError (wrong value) that names the argument.
 */
import type { Lease } from '../api.ts'

/** Maximum number of permits: each acquire looks through all permits of its resource. */
const MAX_PERMITS = 1000

/**
 * Longest TTL, in milliseconds: a longer timer may overflow, and a wait for a crashed holder must not take longer than a
 * day.
 */
const MAX_TTL_MS = 86_400_000
/** Shortest TTL, in milliseconds: the margin for clock drift would use up a shorter lease. */
const MIN_TTL_MS = 20

type Unchecked = Readonly<Record<string, unknown>>

interface Range {
  min: number
  max?: number
  /** Whether the number must be an integer; default true. */
  integer?: boolean
}

/** Checks a number. undefined passes, because the argument has a default. */
export function checkNumber(name: string, value: unknown, { min, max, integer = true }: Range): void {
  if (value === undefined) return
  if (typeof value !== 'number') throw new TypeError(`${name} must be a number, not ${described(value)}`)
  const fits = integer ? Number.isSafeInteger(value) : Number.isFinite(value)
  if (fits && value >= min && value <= (max ?? value)) return
  const range = max === undefined ? `${min} or more` : `from ${min} to ${max}`
  throw new RangeError(`${name} must be ${integer ? 'an integer' : 'finite'}, ${range}: ${value}`)
}

export function checkText(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'string') {
    throw new TypeError(`${name} must be a string, not ${described(value)}`)
  }
}

/** Checks a required function; it refuses undefined, too. */
export function checkFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') throw new TypeError(`${name} must be a function, not ${described(value)}`)
}

/** Checks the name of a resource. Names that differ only in a lone surrogate would be the same name on the server. */
export function checkResource(resource: unknown): asserts resource is string {
  if (typeof resource !== 'string') throw new TypeError(`resource must be a string, not ${described(resource)}`)
  if (resource === '' || /\p{Surrogate}/u.test(resource)) {
    throw new RangeError('resource must be a text of one character or more, without lone surrogates')
  }
}

export function checkTtl(name: string, ttl_ms: unknown): void {
  checkNumber(name, ttl_ms, { min: MIN_TTL_MS, max: MAX_TTL_MS })
}

function checkAbove(above: unknown): void {
  checkNumber('above', above, { min: 0 })
}

/** Checks the options of a function that acquires a lock, as far as they are present. */
export function checkOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) {
    throw new TypeError(`options must be an object, not ${described(options)}`)
  }
  const { wait_ms, ttl_ms, above, owner, job, signal, within, max_hold_ms, progress_ms } = options as Unchecked
  checkNumber('wait_ms', wait_ms, { min: 0, integer: false })
  checkTtl('ttl_ms', ttl_ms)
  checkAbove(above)
  checkText('owner', owner)
  checkText('job', job)
  checkNumber('max_hold_ms', max_hold_ms, { min: 1 })
  checkNumber('progress_ms', progress_ms, { min: 1 })
  if (signal !== undefined && !isSignal(signal)) {
    throw new TypeError(`signal must be an AbortSignal, not ${described(signal)}`)
  }
  if (within !== undefined && !isLease(within)) throw new TypeError(`within must be a lease, not ${described(within)}`)
  checkMode(options as Unchecked)
}

function checkMode({ mode = 'exclusive', limit }: Unchecked): void {
  if (mode !== 'exclusive' && mode !== 'shared' && mode !== 'permit') {
    throw new RangeError(`mode must be 'exclusive', 'shared' or 'permit', not ${described(mode)}`)
  }
  if (mode === 'permit') checkNumber('limit', limit ?? Number.NaN, { min: 1, max: MAX_PERMITS })
  else if (limit !== undefined) throw new RangeError(`limit is for permits only, and the mode is ${mode}`)
}

/** Checks the requests of acquireAll. */
export function checkRequests(requests: unknown): void {
  if (!Array.isArray(requests)) throw new TypeError(`requests must be an array, not ${described(requests)}`)
  if (requests.length === 0) throw new RangeError('requests names no resource')
  for (const one of requests as unknown[]) {
    const entry = typeof one === 'object' && one !== null ? (one as Unchecked) : { resource: one }
    checkResource(entry.resource)
    checkMode(entry)
  }
}

export function checkResources(resources: unknown): asserts resources is string[] {
  if (!Array.isArray(resources)) throw new TypeError(`resources must be an array, not ${described(resources)}`)
  for (const one of resources as unknown[]) checkResource(one)
}

/** Checks leases. @returns the leases as an array, because an iterator yields them only once */
export function checkedLeases(leases: unknown): Lease[] {
  const iterable = typeof (Object(leases) as Iterable<unknown>)[Symbol.iterator] === 'function'
  if (!iterable || typeof leases === 'string') throw new TypeError(`leases must be iterable, not ${described(leases)}`)
  return Array.from(leases as Iterable<unknown>, (one) => {
    if (!isLease(one)) throw new TypeError(`leases must be leases, not ${described(one)}`)
    return one
  })
}

/**
 * Refuses options that a function does not support: accepting them would promise what the function does not do.
 * @throws RangeError
 */
export function rejectOptions(options: object, names: readonly string[], where: string): void {
  for (const name of names) {
    if ((options as Unchecked)[name] !== undefined) throw new RangeError(`${name} is not for ${where}`)
  }
}

/** Checks the common options of createLocks and the other factories; a backend checks its specific options. */
export function checkSetting(setting: unknown): void {
  if (typeof setting !== 'object' || setting === null) {
    throw new TypeError(`options must be an object, not ${described(setting)}`)
  }
  const { ttl_ms, instance, events, expected_hold_ms, prefix } = setting as Unchecked
  checkTtl('ttl_ms', ttl_ms ?? Number.NaN)
  checkText('instance', instance)
  checkText('prefix', prefix)
  if (expected_hold_ms !== undefined) checkFunction('expected_hold_ms', expected_hold_ms)
  if (events === undefined) return
  if (typeof events !== 'object' || events === null) {
    throw new TypeError(`events must be an object, not ${described(events)}`)
  }
  for (const [name, callback] of Object.entries(events)) {
    if (callback !== undefined) checkFunction(`events.${name}`, callback)
  }
}

/**
 * Checks a Redis client and the prefix. The scripts read the channel name as one word, so the prefix must have no white
 * space.
 */
export function checkRedis(name: string, redis: unknown, { prefix = '' }: { prefix?: string }): void {
  const { evalsha, duplicate } = Object(redis) as Unchecked
  if (typeof evalsha !== 'function' || typeof duplicate !== 'function') {
    throw new TypeError(`${name} must be a client of ioredis, not ${described(redis)}`)
  }
  if (/\s/.test(prefix)) throw new RangeError(`prefix must be without white space: ${described(prefix)}`)
}

function isSignal(value: unknown): value is AbortSignal {
  const { aborted, addEventListener } = Object(value) as Unchecked
  return typeof aborted === 'boolean' && typeof addEventListener === 'function'
}

function isLease(value: unknown): value is Lease {
  const { resource, assertValid, release } = Object(value) as Unchecked
  return typeof resource === 'string' && typeof assertValid === 'function' && typeof release === 'function'
}

/** Describes a value for an error message. It limits a caller's text to 60 characters, and cannot fail. */
function described(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 60))
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return String(value)
  return Array.isArray(value) ? 'an array' : `a value of type ${typeof value}`
}
