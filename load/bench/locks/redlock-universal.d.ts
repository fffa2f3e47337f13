/**
 * Types of the parts of redlock-universal that the benchmark uses. The package needs a newer Node than Holdfast and is
 * not installed with it.
 */
declare module 'redlock-universal' {
  import type { Redis } from 'ioredis'

  interface Settings {
    key: string
    /** milliseconds */
    ttl: number
    retryAttempts: number
  }
  interface Lock {
    acquire(): Promise<object>
    release(handle: object): Promise<unknown>
  }
  export class IoredisAdapter {
    constructor(client: Redis)
  }
  export function createLock(settings: Settings & { adapter: IoredisAdapter; performance: 'lean' }): Lock
  export function createRedlock(settings: Settings & { adapters: IoredisAdapter[] }): Lock
}
