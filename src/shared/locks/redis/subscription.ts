/**
 * One connection that listens. The invariants: what matters is the moment after it has subscribed, because who was told in
 * the gap must ask; and it keeps no process alive.
 */
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type { Heard } from '../core/backend.ts'

export interface Ear {
  disconnect(): void
}

/** Of a Cluster any node will do: it passes messages on to all of them. */
function likeOneOf(redis: Redis | Cluster, options: Partial<RedisOptions>): Redis | undefined {
  if (!redis.isCluster) return (redis as Redis).duplicate(options)
  const nodes = (redis as Cluster).nodes()
  return nodes[Math.floor(Math.random() * nodes.length)]?.duplicate(options)
}

/** @param failed is called with why the server does not let this user listen */
export function listenTo(redis: Redis | Cluster, channel: string, heard: Heard, failed: (error: unknown) => void): Ear {
  let own: Redis | undefined
  let timer: NodeJS.Timeout | undefined
  let failures = 0
  let closed = false

  function connect(): void {
    own = likeOneOf(redis, {
      autoResubscribe: false,
      enableOfflineQueue: true,
      lazyConnect: false,
      maxRetriesPerRequest: null,
      readOnly: false,
      // Its timer would keep the process alive: `again` has one that does not.
      retryStrategy: () => null,
    })
    const ear = own
    if (!ear) {
      again()
      return
    }
    ear.on('error', () => {}) // Until it is connected again, waiters live by their rechecks.
    ear.on('end', again)
    ear.on('connect', () => void ear.stream.unref())
    ear.on('message', (_channel: string, message: string) => {
      const [seat, place, token] = message.split(' ') as [string, string, string]
      heard(Number(seat), place === 'taken' ? 'taken' : { place: Number(place), token: Number(token) })
    })
    ear.on('ready', () => {
      ear.subscribe(channel).then(() => {
        failures = 0
        heard('all')
      }, failed)
    })
  }

  /** Soon, because all the waiters of this process live by rechecks until then. */
  function again(): void {
    if (closed) return
    failures += 1
    timer = setTimeout(connect, Math.min(failures * 50, 1000)).unref()
  }

  /** A node that leaves the Cluster may live on, and hears of nothing more. */
  function left(node: Redis): void {
    if (own && node.options.host === own.options.host && node.options.port === own.options.port) own.disconnect()
  }

  if (redis.isCluster) redis.on('-node', left)
  connect()
  return {
    disconnect() {
      closed = true
      clearTimeout(timer)
      redis.off('-node', left)
      own?.disconnect()
    },
  }
}
