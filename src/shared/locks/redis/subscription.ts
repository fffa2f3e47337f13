/**
 * One connection that listens. The invariants: what matters is the moment after it has subscribed, because who was told in
 * the gap must ask; and it keeps no process alive.
 */
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type { OnLockMessage } from '../core/backend.ts'

export interface Subscription {
  disconnect(): void
}

/** Of a Cluster any node will do: it passes messages on to all of them. */
function duplicateOf(redis: Redis | Cluster, options: Partial<RedisOptions>): Redis | undefined {
  if (!redis.isCluster) return (redis as Redis).duplicate(options)
  const nodes = (redis as Cluster).nodes()
  return nodes[Math.floor(Math.random() * nodes.length)]?.duplicate(options)
}

/** @param failed is called with why the server does not let this user listen */
export function subscribe(
  redis: Redis | Cluster,
  channel: string,
  onMessage: OnLockMessage,
  onError: (error: unknown) => void,
): Subscription {
  let own: Redis | undefined
  let timer: NodeJS.Timeout | undefined
  let failures = 0
  let closed = false

  function connect(): void {
    own = duplicateOf(redis, {
      autoResubscribe: false,
      enableOfflineQueue: true,
      lazyConnect: false,
      maxRetriesPerRequest: null,
      readOnly: false,
      // Its timer would keep the process alive: `again` has one that does not.
      retryStrategy: () => null,
    })
    const connection = own
    if (!connection) {
      reconnectLater()
      return
    }
    connection.on('error', () => {}) // Until it is connected again, waiters live by their rechecks.
    connection.on('end', reconnectLater)
    connection.on('connect', () => void connection.stream.unref())
    connection.on('message', (_channel: string, message: string) => {
      const [waiter_id, slot, token] = message.split(' ') as [string, string, string]
      onMessage(Number(waiter_id), slot === 'taken' ? 'taken' : { slot: Number(slot), token: Number(token) })
    })
    connection.on('ready', () => {
      connection.subscribe(channel).then(() => {
        failures = 0
        onMessage('all')
      }, onError)
    })
  }

  /** Soon, because all the waiters of this process live by rechecks until then. */
  function reconnectLater(): void {
    if (closed) return
    failures += 1
    timer = setTimeout(connect, Math.min(failures * 50, 1000)).unref()
  }

  /** A node that leaves the Cluster may live on, and hears of nothing more. */
  function onNodeRemoved(node: Redis): void {
    if (own && node.options.host === own.options.host && node.options.port === own.options.port) own.disconnect()
  }

  if (redis.isCluster) redis.on('-node', onNodeRemoved)
  connect()
  return {
    disconnect() {
      closed = true
      clearTimeout(timer)
      redis.off('-node', onNodeRemoved)
      own?.disconnect()
    },
  }
}
