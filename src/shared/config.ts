/**
 * The only module of src that reads the environment. Invariant: a running process has a valid configuration; an invalid variable
 * stops it at start, with the name of the variable.
 */
import { type ApiKey, readKey } from './api-keys.ts'
import { TYPE_PATTERN } from './domain/resource.ts'

/** The lock server, with the settings of its backend. */
export type LockConfig =
  /**
   * servers undefined: the locks are on REDIS_URL; wait_replicas: number of replicas that must acknowledge a lock before its
   * holder gets it
   */
  | { readonly backend: 'redis'; readonly servers?: LockRedis; readonly wait_replicas?: number }
  | { readonly backend: 'redlock'; readonly urls: readonly string[]; readonly max_ttl_ms?: number }
  | { readonly backend: 'etcd'; readonly hosts: readonly string[] }

/** One Redis, the seed nodes of a Cluster, or the Sentinels of `master`; all as redis:// URLs. */
export type LockRedis =
  | { readonly kind: 'single'; readonly urls: readonly string[] }
  | { readonly kind: 'cluster'; readonly urls: readonly string[] }
  | { readonly kind: 'sentinel'; readonly urls: readonly string[]; readonly master: string }

export interface Config {
  readonly production: boolean
  readonly port: number
  readonly host: string
  readonly database_url: string
  readonly redis_url: string
  /** Prefix of every Redis key and channel, so that several instances of Holdfast can share one Redis. */
  readonly redis_prefix: string
  readonly lock: LockConfig
  readonly api_keys: readonly ApiKey[]
  /** Keys with all scopes and admin rights. */
  readonly admin_keys: readonly ApiKey[]
  /** maximum requests per second of one key, or of one address where no key is needed; undefined: no limit */
  readonly rate_limit: number | undefined
  /** origins whose pages may read the API's responses */
  readonly cors_origins: readonly string[]
  readonly worker_concurrency: number
  /** undefined: port 9464, or any free port if 9464 is taken */
  readonly metrics_port: number | undefined
  readonly lease_ttl_ms: number
  /** seconds after which a ride that is not accepted expires */
  readonly booking_accept_s: number
  /** resource type, or '*' for all others → milliseconds after which a warning is logged for a lease that is still held */
  readonly expected_hold_ms: ReadonlyMap<string, number>
  readonly shutdown_ms: number
  /** part of shutdown_ms in which a stopping process is unready and still answers, so that the load balancer notices */
  readonly drain_ms: number
  /** Enables the routes of the lab, which are unsafe on purpose, so they are never enabled in production. */
  readonly lab: boolean
  /** milliseconds between the read and the write of the lab's unsafe routes */
  readonly lab_pause_ms: number
  readonly log_level: string
  readonly payments: Payments
  readonly webhooks: Webhooks
  /**
   * true if traces are exported. The SDK itself reads its sampler (OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG) and more.
   */
  readonly tracing: boolean
}

export interface Webhooks {
  /** allows addresses that are not public, and URLs without TLS: for receivers in the same network */
  readonly allow_private: boolean
  /** time limit of one delivery attempt, in milliseconds */
  readonly timeout_ms: number
  /** milliseconds before the second attempt; the delay doubles with each further attempt, up to some hours */
  readonly retry_ms: number
  /** hours for which one event may fail before its endpoint is disabled */
  readonly give_up_h: number
  /** days for which events and delivery logs are kept */
  readonly keep_days: number
}

export interface Payments {
  readonly secret_key: string
  readonly webhook_secret: string
  /** address of the sandbox; undefined: Stripe's */
  readonly url: string | undefined
  /** time limit of one request to the provider, in milliseconds */
  readonly timeout_ms: number
}

/** Every variable that this module reads. The types below allow only these names, so the list is complete. */
const VARIABLES = [
  'ADMIN_KEYS',
  'API_KEYS',
  'RIDE_ACCEPT_TIMEOUT_S',
  'CORS_ORIGINS',
  'DATABASE_URL',
  'DRAIN_MS',
  'ETCD_HOSTS',
  'EVENT_RETENTION_DAYS',
  'HOST',
  'LAB',
  'LAB_PAUSE_MS',
  'LEASE_TTL_MS',
  'LOCK_BACKEND',
  'LOCK_HOLD_WARN_MS',
  'LOCK_MAX_TTL_MS',
  'LOCK_REDIS_URLS',
  'LOCK_MIN_REPLICAS',
  'LOG_LEVEL',
  'METRICS_PORT',
  'NODE_ENV',
  'OTEL_EXPORTER_OTLP_ENDPOINT',
  'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  'OTEL_SDK_DISABLED',
  'PAYMENTS',
  'PAYMENT_TIMEOUT_MS',
  'PORT',
  'RATE_LIMIT',
  'REDIS_PREFIX',
  'REDIS_URL',
  'SANDBOX_URL',
  'SHUTDOWN_MS',
  'STRIPE_SECRET_KEY',
  'STRIPE_WEBHOOK_SECRET',
  'WEBHOOK_ALLOW_PRIVATE_ADDRESSES',
  'WEBHOOK_DISABLE_AFTER_HOURS',
  'WEBHOOK_RETRY_BASE_MS',
  'WEBHOOK_TIMEOUT_MS',
  'WORKER_CONCURRENCY',
] as const
type Variable = (typeof VARIABLES)[number]

/**
 * Variables that other code reads: libraries (postgres.js, the OpenTelemetry SDK), the sandbox process, `npm start` and `npm
 * test`.
 */
const OTHER_VARIABLE = /^(PG|OTEL_|SANDBOX_|HOLDFAST_)/

/**
 * Returns whether a variable configures Holdfast. Tests and benchmarks do not pass the developer's variables of this kind to
 * the processes that they start.
 */
export function isConfiguration(name: string): boolean {
  return OTHER_VARIABLE.test(name) || VARIABLES.some((variable) => variable === name)
}

class ConfigError extends Error {
  readonly code = 'bad_configuration'
  readonly variable: Variable
  constructor(variable: Variable, detail: string) {
    super(`${variable} ${detail}`)
    this.variable = variable
  }
}

type Env = Readonly<Record<string, string | undefined>>

function text(env: Env, name: Variable): string | undefined {
  const value = env[name]?.trim()
  return value === '' ? undefined : value
}

function integer(env: Env, name: Variable, min: number, max: number): number | undefined {
  const value = text(env, name)
  if (value === undefined) return undefined
  const number = Number(value)
  if (!/^\d+$/.test(value) || number < min || number > max) {
    throw new ConfigError(name, `must be a whole number from ${min} to ${max}, not ${JSON.stringify(value)}`)
  }
  return number
}

function choice(env: Env, name: Variable, choices: readonly string[]): string | undefined {
  const value = text(env, name)
  if (value !== undefined && !choices.includes(value)) {
    throw new ConfigError(name, `must be one of ${choices.join(', ')}, not ${JSON.stringify(value)}`)
  }
  return value
}

function url(env: Env, name: Variable, protocols: readonly string[]): string {
  const value = text(env, name)
  if (value === undefined) throw new ConfigError(name, 'is not set')
  // Postgres clients accept several hosts with ports, which is not a valid URL: validate only the first host.
  const first = name === 'DATABASE_URL' ? value.replace(/^([^/]+:\/\/(?:[^/@]*@)?[^/?,]*),[^/?]*/, '$1') : value
  // The message does not contain the value, because the value may contain a password.
  if (!URL.canParse(first) || !protocols.includes(new URL(first).protocol)) {
    throw new ConfigError(name, `must be a URL that starts with ${protocols.map((p) => `${p}//`).join(' or ')}`)
  }
  return value
}

function keys(env: Env, name: 'API_KEYS' | 'ADMIN_KEYS', production: boolean): readonly ApiKey[] {
  const list = (text(env, name) ?? '').split(',').flatMap((key) => key.trim() || [])
  if (production && list.length === 0) throw new ConfigError(name, 'must be set in production')
  return list.map((entry) => {
    const key = readKey(entry)
    if (typeof key === 'string') throw new ConfigError(name, key)
    if (!key.unscoped && name === 'ADMIN_KEYS')
      throw new ConfigError(name, 'takes no scopes: its keys may do everything')
    return key
  })
}

/** Reads origins in the form that browsers send: scheme, host, and the port unless it is the scheme's default. */
function origins(env: Env, name: Variable): readonly string[] {
  const list = (text(env, name) ?? '').split(',').flatMap((origin) => origin.trim() || [])
  for (const origin of list) {
    if (/^https?:/.test(origin) && URL.canParse(origin) && new URL(origin).origin === origin) continue
    throw new ConfigError(name, `must be origins like https://shop.example, not ${JSON.stringify(origin)}`)
  }
  return list
}

/**
 * Reads the etcd hosts. The port is required, because gRPC reads it only from the address. A URL with a password is refused,
 * because the client would not send the password.
 */
function etcdHosts(env: Env): readonly string[] {
  const hosts = (text(env, 'ETCD_HOSTS') ?? '').split(',').map((host) => host.trim().replace(/\/$/, ''))
  if (hosts.every((host) => /^https?:\/\/[^/?#@,\s]+:\d+$/.test(host) && URL.canParse(host))) return hosts
  throw new ConfigError('ETCD_HOSTS', 'must be a list of URLs like http://host:2379, separated by commas')
}

/** Reads LOCK_REDIS_URLS, whose URLs must all be of one kind. */
function lockRedis(env: Env): LockRedis | undefined {
  const name = 'LOCK_REDIS_URLS'
  const list = text(env, name)
    ?.split(',')
    .map((one) => one.trim())
  if (list === undefined) return undefined
  // The messages do not contain the values, because the values may contain passwords.
  const parsed = list.map((one) => (URL.canParse(one) ? new URL(one) : undefined))
  const schemes = new Set(parsed.map((one) => one?.protocol))
  const [scheme] = schemes
  if (schemes.size !== 1 || !['redis:', 'rediss:', 'redis+cluster:', 'redis+sentinel:'].includes(scheme ?? '')) {
    throw new ConfigError(name, 'must be URLs of one kind: redis://, rediss://, redis+cluster:// or redis+sentinel://')
  }
  if (new Set(parsed.map((one) => one?.host)).size < list.length) throw new ConfigError(name, 'names a server twice')
  const urls = list.map((one) => one.replace(/^redis\+\w+:/, 'redis:'))
  if (scheme === 'redis+cluster:') return { kind: 'cluster', urls }
  if (scheme !== 'redis+sentinel:') return { kind: 'single', urls }
  const [master, ...others] = new Set(parsed.map((one) => one?.pathname.slice(1)))
  if (!master || others.length > 0) {
    throw new ConfigError(name, 'must name the same master in every URL: redis+sentinel://host:port/master-name')
  }
  return { kind: 'sentinel', urls, master }
}

function lockConfig(env: Env, lease_ttl_ms: number): LockConfig {
  const servers = lockRedis(env)
  const backend = choice(env, 'LOCK_BACKEND', ['redis', 'redlock', 'etcd']) ?? (servers ? 'redlock' : 'redis')
  const notFor = (name: Variable, what: string) => {
    if (text(env, name) !== undefined) throw new ConfigError(name, `is for ${what}; unset it`)
  }
  if (backend !== 'etcd') notFor('ETCD_HOSTS', 'LOCK_BACKEND=etcd')
  if (backend !== 'redlock') notFor('LOCK_MAX_TTL_MS', 'LOCK_BACKEND=redlock')
  if (backend !== 'redis') notFor('LOCK_MIN_REPLICAS', 'LOCK_BACKEND=redis')
  if (backend === 'etcd') {
    notFor('LOCK_REDIS_URLS', 'LOCK_BACKEND=redlock or redis')
    return { backend, hosts: etcdHosts(env) }
  }
  if (backend === 'redlock') {
    if (servers?.kind !== 'single' || (servers.urls.length !== 3 && servers.urls.length !== 5)) {
      throw new ConfigError('LOCK_REDIS_URLS', 'must be 3 or 5 redis:// URLs, separated by commas, for Redlock')
    }
    const max_ttl_ms = integer(env, 'LOCK_MAX_TTL_MS', lease_ttl_ms, 86_400_000)
    return { backend, urls: servers.urls, ...(max_ttl_ms !== undefined && { max_ttl_ms }) }
  }
  if (servers?.kind === 'single' && servers.urls.length > 1) {
    throw new ConfigError('LOCK_REDIS_URLS', 'must be one redis:// URL, a Cluster or Sentinels for LOCK_BACKEND=redis')
  }
  const wait_replicas = integer(env, 'LOCK_MIN_REPLICAS', 1, 10)
  if (servers?.kind === 'cluster') notFor('LOCK_MIN_REPLICAS', 'one Redis or Sentinels, not for a Cluster')
  return { backend: 'redis', ...(servers && { servers }), ...(wait_replicas !== undefined && { wait_replicas }) }
}

/** Parses `product=500,*=1000` to a map from resource type to milliseconds. */
function millisecondsByType(env: Env, name: Variable, otherwise_ms: number): ReadonlyMap<string, number> {
  const map = new Map<string, number>()
  for (const entry of text(env, name)?.split(',') ?? []) {
    const [, type = '', digits = ''] = TYPE_AND_MS.exec(entry.trim()) ?? []
    const ms = Number(digits)
    if (ms < 1 || ms > 86_400_000 || map.has(type)) {
      throw new ConfigError(
        name,
        `must be like product=500,*=1000, each type once, not ${JSON.stringify(entry.trim())}`,
      )
    }
    map.set(type, ms)
  }
  return map.has('*') ? map : map.set('*', otherwise_ms)
}
const TYPE_AND_MS = new RegExp(`^(${TYPE_PATTERN}|\\*)=(\\d{1,8})$`)

/**
 * Milliseconds after which an operator should look into any lease that is still held: the time of three batches at their time
 * limit. A worker that drains a long queue may keep its lease even longer, if no other worker waits for it: docs/operations.md
 * says so.
 */
const EXPECTED_HOLD_MS = 30_000

/**
 * TTL of a lease in milliseconds: long enough to survive a stalled event loop, short enough that another worker soon continues
 * the queue of a killed worker.
 */
const LEASE_TTL_MS = 5_000

export function readConfig(env: Env): Config {
  const production = choice(env, 'NODE_ENV', ['production', 'development', 'test']) === 'production'
  const lease_ttl_ms = integer(env, 'LEASE_TTL_MS', 200, 600_000) ?? LEASE_TTL_MS
  const lab = (choice(env, 'LAB', ['0', '1']) ?? (production ? '0' : '1')) === '1'
  if (lab && production) throw new ConfigError('LAB', 'must not be 1 in production')
  return {
    production,
    port: integer(env, 'PORT', 0, 65_535) ?? 3000,
    // Outside production keys are optional, so the API and the metrics listen on this machine only.
    host: text(env, 'HOST') ?? (production ? '0.0.0.0' : '127.0.0.1'),
    database_url: url(env, 'DATABASE_URL', ['postgres:', 'postgresql:']),
    redis_url: url(env, 'REDIS_URL', ['redis:', 'rediss:']),
    redis_prefix: text(env, 'REDIS_PREFIX') ?? '',
    lock: lockConfig(env, lease_ttl_ms),
    api_keys: keys(env, 'API_KEYS', production),
    admin_keys: keys(env, 'ADMIN_KEYS', production),
    rate_limit: integer(env, 'RATE_LIMIT', 1, 1_000_000),
    cors_origins: origins(env, 'CORS_ORIGINS'),
    worker_concurrency: integer(env, 'WORKER_CONCURRENCY', 1, 1_000) ?? 16,
    metrics_port: integer(env, 'METRICS_PORT', 0, 65_535),
    lease_ttl_ms,
    booking_accept_s: integer(env, 'RIDE_ACCEPT_TIMEOUT_S', 1, 86_400) ?? 30,
    expected_hold_ms: millisecondsByType(env, 'LOCK_HOLD_WARN_MS', EXPECTED_HOLD_MS),
    ...stop(env, production),
    lab,
    lab_pause_ms: integer(env, 'LAB_PAUSE_MS', 0, 10_000) ?? 100,
    log_level: choice(env, 'LOG_LEVEL', ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']) ?? 'info',
    payments: payments(env),
    webhooks: webhooks(env),
    tracing: tracing(env),
  }
}

/** Reads the settings of shutdown. In development there is no load balancer to wait for, so Ctrl-C stops without a pause. */
function stop(env: Env, production: boolean) {
  const shutdown_ms = integer(env, 'SHUTDOWN_MS', 100, 600_000) ?? 15_000
  const drain_ms = integer(env, 'DRAIN_MS', 0, 600_000) ?? (production ? Math.floor(shutdown_ms / 3) : 0)
  if (drain_ms > shutdown_ms / 2) throw new ConfigError('DRAIN_MS', 'must be at most half of SHUTDOWN_MS')
  return { shutdown_ms, drain_ms }
}

function tracing(env: Env): boolean {
  const names = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'] as const
  const named = names.filter((name) => text(env, name) !== undefined)
  for (const name of named) url(env, name, ['http:', 'https:'])
  return named.length > 0 && text(env, 'OTEL_SDK_DISABLED')?.toLowerCase() !== 'true'
}

function webhooks(env: Env): Webhooks {
  const give_up_h = integer(env, 'WEBHOOK_DISABLE_AFTER_HOURS', 1, 720) ?? 72
  const keep_days = integer(env, 'EVENT_RETENTION_DAYS', 1, 3_650) ?? 14
  // While workers still retry an event, the event must still be stored.
  if (keep_days * 24 <= give_up_h)
    throw new ConfigError('EVENT_RETENTION_DAYS', 'must be longer than WEBHOOK_DISABLE_AFTER_HOURS')
  return {
    allow_private: choice(env, 'WEBHOOK_ALLOW_PRIVATE_ADDRESSES', ['0', '1']) === '1',
    timeout_ms: integer(env, 'WEBHOOK_TIMEOUT_MS', 100, 60_000) ?? 10_000,
    retry_ms: integer(env, 'WEBHOOK_RETRY_BASE_MS', 10, 3_600_000) ?? 5_000,
    give_up_h,
    keep_days,
  }
}

/** Time limit of one request to the payment provider, in milliseconds: charging a card can take seconds. */
const PAYMENT_TIMEOUT_MS = 10_000

function payments(env: Env): Payments {
  const provider = choice(env, 'PAYMENTS', ['sandbox', 'stripe'])
  const timeout_ms = integer(env, 'PAYMENT_TIMEOUT_MS', 100, 80_000) ?? PAYMENT_TIMEOUT_MS
  if (provider === 'stripe') {
    return {
      secret_key: secret(env, 'STRIPE_SECRET_KEY', 'sk_', 'rk_'),
      webhook_secret: secret(env, 'STRIPE_WEBHOOK_SECRET', 'whsec_'),
      url: undefined,
      timeout_ms,
    }
  }
  // A Stripe key (real money) together with the sandbox is a mistake, whichever of the two the operator intended.
  if (text(env, 'STRIPE_SECRET_KEY') !== undefined) {
    throw new ConfigError(
      'STRIPE_SECRET_KEY',
      'is set, but PAYMENTS is not stripe: set PAYMENTS=stripe or unset the key',
    )
  }
  return {
    secret_key: SANDBOX_KEY,
    webhook_secret: text(env, 'STRIPE_WEBHOOK_SECRET') ?? SANDBOX_WEBHOOK_SECRET,
    url: text(env, 'SANDBOX_URL') === undefined ? SANDBOX_URL : url(env, 'SANDBOX_URL', ['http:']),
    timeout_ms,
  }
}

/** Defaults of `npm run sandbox`. They are not secret, because the sandbox moves no money. */
export const SANDBOX_URL = 'http://127.0.0.1:12111'
export const SANDBOX_KEY = 'sk_test_sandbox'
export const SANDBOX_WEBHOOK_SECRET = 'whsec_sandbox'

function secret(env: Env, name: Variable, ...prefixes: string[]): string {
  const value = text(env, name)
  if (value === undefined) throw new ConfigError(name, 'must be set with PAYMENTS=stripe')
  if (!prefixes.some((prefix) => value.startsWith(prefix))) {
    throw new ConfigError(name, `must begin with ${prefixes.join(' or ')}`)
  }
  return value
}

/** For entry files: returns the configuration, or writes an error to stderr and exits with 1. */
export function configOrExit(): Config {
  try {
    return readConfig(process.env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`holdfast: ${error.message}\n`)
    process.exit(1)
  }
}
