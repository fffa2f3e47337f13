/**
 * The load generator: each connection posts purchases of one unit of a random product, one after the other. It is a
 * separate process, so that its work is not in the event loop of a measured process, and it is the same for every
 * system.
 */
import autocannon from 'autocannon'

export interface Load {
  url: string
  connections: number
  seconds: number
  /** products are named product:1 … product:N, or from `first` on */
  products: number
  first?: number
  /**
   * total requests a second, whether the earlier ones were answered or not; absent: each request follows the previous
   * answer
   */
  rate?: number
  /** true: request the settled purchase (Prefer: wait) instead of the 202 */
  wait: boolean
}

export interface Loaded {
  /** milliseconds since 1970 just before the first request was sent */
  from_ms: number
  /** milliseconds since 1970 when the last answer had come */
  until_ms: number
  /** requests answered 2xx */
  accepted: number
  /** requests with another answer or none */
  refused: number
  /** median time from request to answer, in milliseconds */
  p50_ms: number
  p99_ms: number
  max_ms: number
}

/** Number of different requests of one connection, which it sends in a cycle. */
const REQUESTS = 64

function requestsOf({ products, first = 1, wait }: Load): autocannon.Request[] {
  return Array.from({ length: REQUESTS }, () => {
    const resource = `product:${first + Math.floor(Math.random() * products)}`
    const customer = `customer-${Math.floor(Math.random() * 1e6)}`
    return {
      method: 'POST' as const,
      headers: { 'content-type': 'application/json', ...(wait ? { prefer: 'wait=30' } : {}) },
      body: JSON.stringify({ customer, lines: [{ resource, units: 1 }], payment: { method: 'none' } }),
    }
  })
}

async function load(asked: Load): Promise<Loaded> {
  const { url, connections, seconds, rate } = asked
  let from_ms = 0
  let until_ms = 0
  const result = await new Promise<autocannon.Result>((resolve, reject) => {
    const instance = autocannon(
      {
        url,
        connections,
        duration: seconds,
        // Also the longest delay with which autocannon notices that the time is over.
        sampleInt: 100,
        ...(rate !== undefined && { overallRate: rate }),
        setupClient: (client) => client.setRequests(requestsOf(asked)),
      },
      (error, done) => (error ? reject(error) : resolve(done)),
    )
    // autocannon emits this after it has created the clients and before their connections are open.
    instance.on('start', () => {
      from_ms = Date.now()
    })
    instance.on('response', () => {
      until_ms = Date.now()
    })
  })
  return {
    from_ms,
    until_ms,
    accepted: result['2xx'],
    refused: result.non2xx + result.errors + result.timeouts,
    p50_ms: result.latency.p50,
    p99_ms: result.latency.p99,
    max_ms: result.latency.max,
  }
}

process.on('message', (message: { type: string } & Load) => {
  load(message).then(
    (loaded) => process.send?.({ type: 'load', ...loaded }),
    (error) => {
      process.stderr.write(`${error.stack}\n`)
      process.exit(1)
    },
  )
})
// End without the parent: there is no other process to report to.
process.on('disconnect', () => process.exit())
process.send?.({ type: 'up' })
