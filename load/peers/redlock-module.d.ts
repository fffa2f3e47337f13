/** redlock's own types are out of reach of its `exports`: what the peer uses of them. */
declare module 'redlock' {
  import type { EventEmitter } from 'node:events'
  import type { Redis } from 'ioredis'

  interface Settings {
    driftFactor: number
    retryCount: number
    /** milliseconds */
    retryDelay: number
    /** milliseconds */
    retryJitter: number
  }
  export default class Redlock extends EventEmitter {
    constructor(clients: Iterable<Redis>, settings?: Partial<Settings>)
    acquire(resources: string[], duration_ms: number): Promise<{ release(): Promise<unknown> }>
  }
}
