/**
 * The connection that subscribes. Invariants: after each (re)subscription it reports 'all', because messages of the gap
 * are lost and waiters must recheck; and it does not keep the process alive.
 */
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type { OnLockMessage } from '../core/backend.ts'

export interface Subscription {
  disconnect(): void
}

/** Any node of a Cluster will do: it passes messages on to all nodes. */
function duplicateOf(redis: Redis | Cluster, options: Partial<RedisOptions>): Redis | undefined {
  if (!redis.isCluster) return (redis as Redis).duplicate(options)
  const nodes = (redis as Cluster).nodes()
  return nodes[Math.floor(Math.random() * nodes.length)]?.duplicate(options)
}

/** @param onError is called with the reason when the server does not let this user subscribe */
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
      // Its timer would keep the process alive: `reconnectLater` has one that does not.
      retryStrategy: () => null,
    })
    const connection = own
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

  /** Soon, because until then all waiters of this process depend on their rechecks. */
  function reconnectLater(): void {
    if (closed) return
    failures += 1
    timer = setTimeout(connect, Math.min(failures * 50, 1000)).unref()
  }

  /** A node that has left the Cluster may keep running, and receives no more messages. */
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
