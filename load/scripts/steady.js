// An ordinary day of a shop: after a ramp, RATE (200) buyers a second buy from PRODUCTS (100) products for SECONDS
// (30). They do not wait for the outcome (202) and read it later. Half as many visitors only read. No product runs out.
import { check } from 'k6'
import exec from 'k6/execution'
import http from 'k6/http'
import { Rate, Trend } from 'k6/metrics'
import { createProduct, intEnv, outcome, request, runId } from './api.js'

const PRODUCTS = intEnv('PRODUCTS', 100)
const RATE = intEnv('RATE', 200)
const SECONDS = intEnv('SECONDS', 30)
const P95_MS = intEnv('P95_MS', 1000)

const PLENTY = 100000000
const settledAtOnce = new Rate('settled_at_first_look')
const settling = new Trend('settling', true)
http.setResponseCallback(http.expectedStatuses(200, 201, 202))

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    buyers: {
      executor: 'ramping-arrival-rate',
      startRate: Math.ceil(RATE / 4),
      stages: [
        { target: RATE, duration: `${Math.ceil(SECONDS / 6)}s` },
        { target: RATE, duration: `${SECONDS}s` },
        { target: Math.ceil(RATE / 4), duration: `${Math.ceil(SECONDS / 6)}s` },
      ],
      preAllocatedVUs: RATE * 3,
      maxVUs: RATE * 10,
      exec: 'buy',
    },
    lookers: {
      executor: 'constant-arrival-rate',
      rate: Math.ceil(RATE / 2),
      duration: `${SECONDS + 2 * Math.ceil(SECONDS / 6)}s`,
      preAllocatedVUs: RATE * 2,
      maxVUs: RATE * 10,
      exec: 'browse',
    },
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'http_req_duration{scenario:buyers}': [`p(95)<${P95_MS}`],
    'http_req_duration{scenario:lookers}': [`p(95)<${P95_MS}`],
    settling: [`p(95)<${2 * P95_MS}`],
    dropped_iterations: ['count==0'],
  },
}

export async function setup() {
  const shop = `steady-${runId()}`
  for (let n = 0; n < PRODUCTS; n++) await createProduct(`product:${shop}-${n}`, PLENTY)
  return { shop }
}

const any = () => Math.floor(Math.random() * PRODUCTS)

/** @param {{ shop: string }} data */
export async function buy(data) {
  const n = exec.scenario.iterationInTest
  const body = { customer: `buyer-${n}`, lines: [{ resource: `product:${data.shop}-${any()}`, units: 1 }] }
  const taken = await request('buy', 'POST', '/api/purchases', body, { 'idempotency-key': `${data.shop}-${n}` })
  if (!check(taken, { 'taken: 202': (answer) => answer.status === 202 })) return
  const since = Date.now()
  const id = taken.json('id')
  const first = await request('look', 'GET', `/api/purchases/${id}`)
  const settled = first.status === 200 && first.json('status') !== 'queued'
  settledAtOnce.add(settled)
  // Send the same key again, now with Prefer: wait. The answer must be the same purchase.
  const again = settled
    ? first
    : await request('wait', 'POST', '/api/purchases', body, {
        'idempotency-key': `${data.shop}-${n}`,
        prefer: 'wait=30',
      })
  settling.add(Date.now() - since)
  check(again, {
    'the same purchase, confirmed': (one) =>
      (one.status === 200 || one.status === 201) && one.json('id') === id && one.json('status') === 'confirmed',
  })
}

/** @param {{ shop: string }} data */
export async function browse(data) {
  const answer = await request('browse', 'GET', `/api/resources/product/${data.shop}-${any()}`)
  check(outcome(answer), { 'there is one': (one) => one.startsWith('200') })
}
