/**
 * The connection that subscribes to the messages of the lock server. Invariants: after each subscription, including the first,
 * it reports 'all', because messages sent in between are lost and waiters must recheck; it does not keep the process alive.
 */
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type { OnLockMessage } from '../core/backend.ts'

export interface Subscription {
  disconnect(): void
}

/**
 * Opens a second connection for the subscription. For a Cluster it uses any node, because nodes pass messages on to all
 * nodes.
 */
function duplicateOf(redis: Redis | Cluster, options: Partial<RedisOptions>): Redis | undefined {
  if (!redis.isCluster) return (redis as Redis).duplicate(options)
  const nodes = (redis as Cluster).nodes()
  return nodes[Math.floor(Math.random() * nodes.length)]?.duplicate(options)
}

/**
 * Subscribes, and subscribes again after each reconnection.
 * @param onError is called with the reason when the server does not let this user subscribe
 */
export function subscribe(
  redis: Redis | Cluster,
  channel: string,
  onMessage: OnLockMessage,
  onError: (error: unknown) => void,
): Subscription {
  let subscriber: Redis | undefined
  let timer: NodeJS.Timeout | undefined
  let failures = 0
  let closed = false

  function connect(): void {
    subscriber = duplicateOf(redis, {
      autoResubscribe: false,
      enableOfflineQueue: true,
      lazyConnect: false,
      maxRetriesPerRequest: null,
      readOnly: false,
      // ioredis' retry timer would keep the process alive; the timer of `reconnectLater` does not.
      retryStrategy: () => null,
    })
    const connection = subscriber
    if (!connection) {
      reconnectLater()
      return
    }
    connection.on('error', () => {}) // Until it has reconnected, waiters depend on their rechecks.
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

  /** Reconnects after a short pause: until then all waiters of this process depend on their rechecks. */
  function reconnectLater(): void {
    if (closed) return
    failures += 1
    timer = setTimeout(connect, Math.min(failures * 50, 1000)).unref()
  }

  /** Reconnects if our node has left the Cluster: that node may keep running, but it receives no more messages. */
  function onNodeRemoved(node: Redis): void {
    if (subscriber && node.options.host === subscriber.options.host && node.options.port === subscriber.options.port)
      subscriber.disconnect()
  }

  if (redis.isCluster) redis.on('-node', onNodeRemoved)
  connect()
  return {
    disconnect() {
      closed = true
      clearTimeout(timer)
      redis.off('-node', onNodeRemoved)
      subscriber?.disconnect()
    },
  }
}
