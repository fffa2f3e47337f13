/**
 * Configured API keys. Invariant: a process keeps only digests of keys, and a configuration may contain only digests, so that
 * reading one of the two is not enough to call the API.
 */
import { createHash } from 'node:crypto'

/** Scopes of a key: purchases (and resources), bookings (and resources), leases and locks. */
export const SCOPES = ['sell', 'book', 'lock'] as const
export type Scope = (typeof SCOPES)[number]

export interface ApiKey {
  /** SHA-256: keys are long and random, so they cannot be guessed and need no slow hash */
  readonly digest: Buffer
  readonly scopes: readonly Scope[]
  /** true if the entry of this key names no scopes */
  readonly unscoped: boolean
}

export const digestOf = (key: string) => createHash('sha256').update(key).digest()

const SCOPE = SCOPES.join('|')
const ENTRY = new RegExp(`^(?:((?:${SCOPE})(?:\\+(?:${SCOPE}))*):)?(sha256:)?(.*)$`)

/**
 * Parses one entry: `key`, or `sha256:` and the 64 hexadecimal digits of its digest; either may have a prefix such as
 * `sell+lock:`, which limits the scopes of the key. Returns the key, or a text that says what is wrong. The text does not
 * contain the entry, because the entry is a secret.
 */
export function readKey(entry: string): ApiKey | string {
  const [, named, hashed, key = ''] = ENTRY.exec(entry) ?? []
  if (key === '') return 'has an entry that names no key'
  if (hashed && !/^[0-9a-f]{64}$/i.test(key)) return 'has a sha256: without its 64 hexadecimal digits'
  const digest = hashed ? Buffer.from(key, 'hex') : digestOf(key)
  return { digest, scopes: named ? (named.split('+') as Scope[]) : SCOPES, unscoped: !named }
}
