/** A lock held by another library, to compare its signal with ours while the server hangs. */
import { once } from 'node:events'
import { Cluster, Redis } from 'ioredis'
import Redlock from 'redlock'
import type { Scope } from './conformance/contract.ts'
import type { Address } from './lock-servers.ts'

interface Held {
  /** performance.now() when it was granted. */
  since: number
  signal: AbortSignal
}

/** Held by node-redlock, on all nodes of the server; it renews the lock at half of its TTL. */
export async function heldByNodeRedlock(t: Scope, { kind, ports }: Address, ttl_ms: number): Promise<Held> {
  const nodes = ports.map((port) => ({ host: '127.0.0.1', port }))
  const clients = kind === 'cluster' ? [new Cluster(nodes)] : nodes.map((node) => new Redis(node))
  // Without retries, so that releasing an expired lock does not delay the test.
  const redlock = new Redlock(clients, { retryCount: 0 })
  for (const one of [redlock, ...clients]) one.on('error', () => {})
  const end = new AbortController()
  let using: Promise<unknown> = Promise.resolve()
  t.teardown(async () => {
    end.abort()
    await using
    for (const client of clients) client.disconnect()
  })
  return await new Promise((resolve, reject) => {
    const settings = { automaticExtensionThreshold: ttl_ms / 2 }
    using = redlock
      .using(['{node-redlock}'], ttl_ms, settings, async (signal) => {
        resolve({ since: performance.now(), signal })
        await once(end.signal, 'abort')
      })
      .catch(reject)
  })
}
