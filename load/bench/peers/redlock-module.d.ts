/** Types of the parts of redlock that the peer uses, because redlock's `exports` do not include its own types. */
declare module 'redlock' {
  import type { EventEmitter } from 'node:events'
  import type { Cluster, Redis } from 'ioredis'

  interface Settings {
    driftFactor: number
    retryCount: number
    /** milliseconds */
    retryDelay: number
    /** milliseconds */
    retryJitter: number
    /** milliseconds before its end at which redlock extends a lock */
    automaticExtensionThreshold: number
  }
  export default class Redlock extends EventEmitter {
    constructor(clients: Iterable<Redis | Cluster>, settings?: Partial<Settings>)
    using<T>(
      resources: string[],
      duration_ms: number,
      settings: Partial<Settings>,
      routine: (signal: AbortSignal) => Promise<T>,
    ): Promise<T>
    acquire(resources: string[], duration_ms: number): Promise<{ release(): Promise<unknown> }>
  }
}
