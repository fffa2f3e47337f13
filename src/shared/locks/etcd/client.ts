/**
 * The etcd client of the locks. Invariant: a request ends by its deadline, whatever etcd does. The client sends it again only
 * after a recoverable failure, to the next server; that is safe because every operation of the layers above may be repeated. No
 * timer of the etcd3 package runs in the background: the package's retries, circuit breakers and renewing leases stay unused,
 * because the core does the timing.
 */
import { noop } from 'cockatiel'
import { Etcd3, GRPCDeadlineExceededError, type IResponseOp, type ITxnRequest, isRecoverableError } from 'etcd3'

/** Settings that all requests of one operation share. */
export interface Call {
  /** A time of Date.now(), because gRPC deadlines are times of day. */
  deadline: number
}

export interface EtcdClient {
  /** Reads and writes in one atomic step. */
  txn(request: ITxnRequest, call: Call): Promise<{ succeeded: boolean; revision: number; responses: IResponseOp[] }>
  /** Creates a lease. Returns false if a lease with this id exists. */
  grantLease(lease: string, ttl_s: number, call: Call): Promise<boolean>
  /** Renews a lease. Returns how long it lives from now on, in ms; 0 if the lease is gone. */
  keepAlive(lease: string, call: Call): Promise<number>
  /** Revokes a lease. Returns false if the lease was gone already. */
  revokeLease(lease: string, call: Call): Promise<boolean>
  /** Returns how long the lease still lives, in ms; negative if the lease is gone. */
  timeToLive(lease: string, call: Call): Promise<number>
  /** Opens a stream of watches on the server that is currently used. */
  watches(): ReturnType<Etcd3['watchClient']['watch']>
  close(): void
}

const SETTINGS = {
  // With the default, gRPC waits up to two minutes before it reconnects to a server that was away.
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 1000,
  // Pings detect a watch whose connection died silently; etcd refuses pings more often than every 5 s.
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 3_000,
  'grpc.enable_retries': 0,
}

/** Wraps the error of a failed request, so that etcd3 does not recognize it. */
class HiddenFailure extends Error {}

/**
 * Policy that hides network failures from etcd3. After a failure that it recognizes, etcd3 drops all connections to the server,
 * which delays the following requests, too. gRPC reconnects by itself where that helps.
 */
const keepConnections = Object.assign(Object.create(noop) as typeof noop, {
  async execute<T>(work: (context: { signal: AbortSignal }) => PromiseLike<T> | T): Promise<T> {
    try {
      return await noop.execute(work)
    } catch (cause) {
      throw new HiddenFailure('', { cause })
    }
  },
})

export function connectEtcd(hosts: readonly string[]): EtcdClient {
  const clients = hosts.map(
    (host) =>
      new Etcd3({ hosts: host, grpcOptions: SETTINGS, faultHandling: { host: () => keepConnections, global: noop } }),
  )
  let current = Math.floor(Math.random() * clients.length)

  /**
   * Makes a call. It stays with one server while that server answers, and repeats a call once if the connection was reset. If a
   * server hangs, the call uses up its deadline, and the next call goes to the next server.
   */
  async function callWithFailover<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      const used = current
      try {
        return await call(clients[used] as Etcd3)
      } catch (thrown) {
        const error = thrown instanceof HiddenFailure ? thrown.cause : thrown
        if (!(error instanceof Error && isRecoverableError(error))) throw error
        if (current === used) current = (used + 1) % clients.length
        if (tries > clients.length || error instanceof GRPCDeadlineExceededError) throw error
      }
    }
  }

  return {
    async txn(request, { deadline }) {
      const { succeeded, header, responses } = await callWithFailover((client) => client.kv.txn(request, { deadline }))
      return { succeeded, revision: Number(header.revision), responses }
    },

    async grantLease(lease, ttl_s, { deadline }) {
      try {
        await callWithFailover((client) => client.leaseClient.leaseGrant({ ID: lease, TTL: ttl_s }, { deadline }))
        return true
      } catch (error) {
        if (hasMessage(error, 'lease already exists')) return false
        throw error
      }
    },

    keepAlive: (lease, call) => callWithFailover((client) => keepAliveOnce(client, lease, call)),

    async revokeLease(lease, { deadline }) {
      try {
        await callWithFailover((client) => client.leaseClient.leaseRevoke({ ID: lease }, { deadline }))
        return true
      } catch (error) {
        if (isGone(error)) return false
        throw error
      }
    },

    async timeToLive(lease, { deadline }) {
      const { TTL } = await callWithFailover((client) =>
        client.leaseClient.leaseTimeToLive({ ID: lease }, { deadline }),
      )
      return Number(TTL) * 1000
    },

    watches: () => (clients[current] as Etcd3).watchClient.watch(),

    close() {
      for (const client of clients) client.close()
    },
  }
}

/**
 * Renews a lease over a stream with one request and one answer: the Lease class of etcd3 would keep the stream open and
 * renew by itself.
 */
async function keepAliveOnce(client: Etcd3, lease: string, { deadline }: Call): Promise<number> {
  const stream = await client.leaseClient.leaseKeepAlive({ deadline })
  return await new Promise((resolve, reject) => {
    stream.on('data', ({ TTL }) => resolve(Number(TTL) * 1000))
    stream.on('error', reject)
    stream.on('end', () => reject(new Error('etcd closed the stream without an answer')))
    stream.write({ ID: lease })
    stream.end()
  })
}

/** Returns whether a request failed because its lease does not exist. */
export function isGone(error: unknown): boolean {
  return hasMessage(error, 'requested lease not found')
}

function hasMessage(error: unknown, what: string): boolean {
  return error instanceof Error && error.message.includes(what)
}

/** Returns the range of all keys with this prefix. */
export function startingWith(prefix: string): { key: Buffer; range_end: Buffer } {
  const range_end = Buffer.from(prefix)
  // Prefixes here end with a slash, so the last byte can be incremented.
  range_end[range_end.length - 1] = (range_end.at(-1) ?? 0) + 1
  return { key: Buffer.from(prefix), range_end }
}
