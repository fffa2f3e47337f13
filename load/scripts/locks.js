// Leases over HTTP, as a client in any language uses them: RATE (100) clients a second, half of them on one hot lock,
// the others on one of LOCKS (50). Each client waits for its turn, renews once, checks that no other holder is listed,
// and releases. Lasts SECONDS (20).
import { check } from 'k6'
import exec from 'k6/execution'
import http from 'k6/http'
import { Counter, Trend } from 'k6/metrics'
import { intEnv, outcome, request, requestOk, runId } from './api.js'

const LOCKS = intEnv('LOCKS', 50)
const RATE = intEnv('RATE', 100)
const SECONDS = intEnv('SECONDS', 20)
const WAIT_MS = intEnv('WAIT_MS', 5000)
const P95_MS = intEnv('P95_MS', 1000)

const held = new Counter('held')
const busy = new Counter('lock_busy')
const waited = new Trend('lock_wait', true)
http.setResponseCallback(http.expectedStatuses(200, 201, 204, 409))

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    hot: {
      executor: 'ramping-arrival-rate',
      startRate: 1,
      stages: [
        { target: Math.ceil(RATE / 2), duration: `${Math.ceil(SECONDS / 2)}s` },
        { target: Math.ceil(RATE / 2), duration: `${Math.ceil(SECONDS / 2)}s` },
      ],
      preAllocatedVUs: RATE * 3,
      maxVUs: RATE * 10,
      exec: 'hot',
    },
    many: {
      executor: 'constant-arrival-rate',
      rate: Math.ceil(RATE / 2),
      duration: `${SECONDS}s`,
      preAllocatedVUs: RATE * 3,
      maxVUs: RATE * 10,
      exec: 'many',
    },
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'lock_wait{scenario:many}': [`p(95)<${P95_MS}`],
    'lock_wait{scenario:hot}': [`p(95)<${WAIT_MS}`],
    dropped_iterations: ['count==0'],
  },
}

export async function setup() {
  return { place: `load-${runId()}` }
}

/** @param {string} resource */
async function turn(resource) {
  const owner = `vu-${exec.vu.idInTest}`
  const since = Date.now()
  const body = { resource, mode: 'exclusive', ttl_ms: 10000, wait_ms: WAIT_MS, owner }
  const got = await request('acquire', 'POST', '/api/leases', body)
  if (outcome(got) === '409 lock_busy') return busy.add(1)
  if (!check(got, { 'a lease: 201': (answer) => answer.status === 201 })) return
  waited.add(Date.now() - since)
  held.add(1)
  const path = `/api/leases/${got.json('lease_id')}`
  const renewed = await request('renew', 'PUT', path)
  check(renewed, {
    'it is renewed, with the same token': (one) =>
      one.status === 200 && one.json('fencing_token') === got.json('fencing_token'),
  })
  const looked = await request('look', 'GET', `/api/locks/${resource}`)
  check(looked, {
    'nobody else holds it': (one) => {
      if (one.status !== 200) return false
      const holders = /** @type {any} */ (one.json('holders'))
      return holders.length === 1 && holders[0].fencing_token === got.json('fencing_token')
    },
  })
  const released = await request('release', 'DELETE', path)
  check(released, { 'it is let go: 204': (answer) => answer.status === 204 })
}

/** @param {{ place: string }} data */
export const hot = (data) => turn(`job:${data.place}-hot`)

/** @param {{ place: string }} data */
export const many = (data) => turn(`job:${data.place}-${Math.floor(Math.random() * LOCKS)}`)

/** @param {{ place: string }} data */
export async function teardown(data) {
  const { holders, waiters } = await requestOk(200, 'teardown', 'GET', `/api/locks/job:${data.place}-hot`)
  check({ holders, waiters }, { 'nobody is left': (one) => one.holders.length === 0 && one.waiters.length === 0 })
}
