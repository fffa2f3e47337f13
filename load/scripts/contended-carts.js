// Carts that compete for the same products: RATE (100) carts a second for SECONDS (20), each with two of PRODUCTS (6)
// products in either order. Each product has UNITS (300). A cart is sold whole or not at all, and no product is
// oversold at the end.
import { check } from 'k6'
import exec from 'k6/execution'
import http from 'k6/http'
import { Counter } from 'k6/metrics'
import { createProduct, getResource, intEnv, outcome, request, runId } from './api.js'

const PRODUCTS = intEnv('PRODUCTS', 6)
const UNITS = intEnv('UNITS', 300)
const RATE = intEnv('RATE', 100)
const SECONDS = intEnv('SECONDS', 20)
const P95_MS = intEnv('P95_MS', 5000)

const carts = new Counter('carts_sold')
const refused = new Counter('carts_sold_out')
http.setResponseCallback(http.expectedStatuses(200, 201, 409))

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    carts: {
      executor: 'constant-arrival-rate',
      rate: RATE,
      duration: `${SECONDS}s`,
      preAllocatedVUs: RATE * 3,
      maxVUs: RATE * 20,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'http_req_duration{name:cart}': [`p(95)<${P95_MS}`],
    carts_sold: ['count>0', `count<=${Math.floor((PRODUCTS * UNITS) / 2)}`],
    dropped_iterations: ['count==0'],
  },
}

export async function setup() {
  if (PRODUCTS < 2) throw new Error('PRODUCTS must be at least 2: a cart has two products')
  const shop = runId()
  const refs = Array.from({ length: PRODUCTS }, (_, n) => `product:cart-${shop}-${n}`)
  for (const ref of refs) await createProduct(ref, UNITS)
  return { refs }
}

/** @param {{ refs: string[] }} data */
export default async function (data) {
  const one = Math.floor(Math.random() * PRODUCTS)
  const other = (one + 1 + Math.floor(Math.random() * (PRODUCTS - 1))) % PRODUCTS
  const lines = [one, other].map((n) => ({ resource: data.refs[n], units: 1 }))
  const body = { customer: `cart-${exec.scenario.iterationInTest}`, lines }
  const told = outcome(await request('cart', 'POST', '/api/purchases', body, { prefer: 'wait=30' }))
  check(told, { 'sold whole or sold out': (cart) => cart === '201 confirmed' || cart === '409 sold_out' })
  if (told === '201 confirmed') carts.add(1)
  if (told === '409 sold_out') refused.add(1)
}

/** @param {{ refs: string[] }} data */
export async function teardown(data) {
  let sold = 0
  for (const ref of data.refs) {
    const product = await getResource(ref)
    check(product, { 'no product is oversold': (one) => one.available >= 0 && one.available + one.sold === UNITS })
    sold += product.sold
  }
  check(sold, { 'no half cart: an even number of units is sold': (units) => units % 2 === 0 })
}
