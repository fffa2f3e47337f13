/** redlock's own types are out of reach of its `exports`: what the peer uses of them. */
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
    /** milliseconds before the end at which it extends */
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
