// A flash sale: BUYERS (10000) arrive at RATE (1000) a second, however long the answers take, and each requests one of
// UNITS (1000). Every unit is sold once, every other buyer gets 409 sold_out, and 95 % of the buyers get their answer
// within P95_MS (5000).
import { check } from 'k6'
import exec from 'k6/execution'
import http from 'k6/http'
import { Counter } from 'k6/metrics'
import { createProduct, getResource, intEnv, outcome, request, runId } from './api.js'

const BUYERS = intEnv('BUYERS', 10000)
const UNITS = intEnv('UNITS', 1000)
const RATE = intEnv('RATE', 1000)
const P95_MS = intEnv('P95_MS', 5000)

const sold = new Counter('sold')
const soldOut = new Counter('sold_out')
http.setResponseCallback(http.expectedStatuses(200, 201, 409))

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    buyers: {
      executor: 'constant-arrival-rate',
      rate: RATE,
      duration: `${Math.round((BUYERS / RATE) * 1000)}ms`,
      // Virtual users: the buyers that wait for an answer at the same time.
      preAllocatedVUs: Math.min(BUYERS, RATE * 4),
      maxVUs: Math.min(BUYERS, RATE * 10),
    },
  },
  thresholds: {
    sold: [`count==${Math.min(BUYERS, UNITS)}`],
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'http_req_duration{name:buy}': [`p(95)<${P95_MS}`],
    dropped_iterations: ['count==0'],
  },
}

export async function setup() {
  const resource = `product:flash-${runId()}`
  await createProduct(resource, UNITS, 99900)
  return { resource }
}

/** @param {{ resource: string }} sale */
export default async function (sale) {
  const n = exec.scenario.iterationInTest
  const body = { customer: `buyer-${n}`, lines: [{ resource: sale.resource, units: 1 }] }
  const headers = { prefer: 'wait=30', 'idempotency-key': `${sale.resource}-${n}` }
  const told = outcome(await request('buy', 'POST', '/api/purchases', body, headers))
  check(told, { 'confirmed or sold out': (one) => one === '201 confirmed' || one === '409 sold_out' })
  if (told === '201 confirmed') sold.add(1)
  if (told === '409 sold_out') soldOut.add(1)
}

/** @param {{ resource: string }} sale */
export async function teardown(sale) {
  check(await getResource(sale.resource), {
    'every unit is sold, none twice': (one) =>
      one.sold === Math.min(BUYERS, UNITS) && one.available === UNITS - one.sold,
  })
}
