// Stays and rides. STAYS (100) clients a second request random, overlapping nights of PROPERTIES (20) houses. At most
// RIDES (20) riders a second request one of DRIVERS (10) drivers, and each requested ride is accepted and completed.
// Lasts SECONDS (20). An answer is 201, or 409 conflict with the ids of the earlier bookings.
import { check } from 'k6'
import exec from 'k6/execution'
import http from 'k6/http'
import { Counter } from 'k6/metrics'
import { createCalendar, intEnv, outcome, request, requestOk, runId } from './api.js'

const STAYS = intEnv('STAYS', 100)
const RIDES = intEnv('RIDES', 20)
const PROPERTIES = intEnv('PROPERTIES', 20)
const DRIVERS = intEnv('DRIVERS', 10)
const SECONDS = intEnv('SECONDS', 20)
const P95_MS = intEnv('P95_MS', 2000)

const DAYS = 365
const NIGHTS = 7
const DAY_MS = 86400000
const booked = new Counter('booked')
const conflicts = new Counter('conflicts')
http.setResponseCallback(http.expectedStatuses(200, 201, 409))

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    stays: {
      executor: 'constant-arrival-rate',
      rate: STAYS,
      duration: `${SECONDS}s`,
      preAllocatedVUs: STAYS * 2,
      maxVUs: STAYS * 10,
      exec: 'stay',
    },
    rides: {
      executor: 'ramping-arrival-rate',
      startRate: 1,
      stages: [{ target: RIDES, duration: `${SECONDS}s` }],
      preAllocatedVUs: RIDES * 2,
      maxVUs: RIDES * 10,
      exec: 'ride',
    },
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'http_req_duration{name:stay}': [`p(95)<${P95_MS}`],
    'http_req_duration{name:ride}': [`p(95)<${P95_MS}`],
    booked: ['count>0'],
    dropped_iterations: ['count==0'],
  },
}

export async function setup() {
  const town = runId()
  for (let n = 0; n < PROPERTIES; n++) await createCalendar(`property:${town}-${n}`)
  for (let n = 0; n < DRIVERS; n++) await createCalendar(`driver:${town}-${n}`)
  return { town }
}

/** @param {number} below */
const dice = (below) => Math.floor(Math.random() * below)

/** @param {string} told */
function count(told) {
  if (told.startsWith('201')) booked.add(1)
  if (told === '409 conflict') conflicts.add(1)
}

/** @param {{ town: string }} data */
export async function stay(data) {
  const from = Date.UTC(2030, 0, 1) + dice(DAYS) * DAY_MS
  const body = {
    resource: `property:${data.town}-${dice(PROPERTIES)}`,
    customer: `guest-${exec.scenario.iterationInTest}`,
    from: new Date(from).toISOString(),
    to: new Date(from + (1 + dice(NIGHTS)) * DAY_MS).toISOString(),
  }
  const answer = await request('stay', 'POST', '/api/bookings', body, { prefer: 'wait=30' })
  const told = outcome(answer)
  check(told, { 'a stay is accepted or in conflict': (one) => one === '201 accepted' || one === '409 conflict' })
  count(told)
}

/** @param {{ town: string }} data */
export async function ride(data) {
  const rider_id = `rider-${data.town}-${exec.scenario.iterationInTest}`
  const body = { driver_id: `${data.town}-${dice(DRIVERS)}`, rider_id, pickup_lat: 52.52, pickup_lng: 13.4 }
  const answer = await request('ride', 'POST', '/api/bookings', body, { prefer: 'wait=30' })
  const told = outcome(answer)
  check(told, { 'a ride is requested or in conflict': (one) => one === '201 requested' || one === '409 conflict' })
  count(told)
  if (answer.status !== 201) return
  for (const command of ['accept', 'complete']) {
    const moved = await request(command, 'POST', `/api/bookings/${answer.json('id')}/${command}`)
    check(outcome(moved), {
      'a ride goes on': (one) => one === `200 ${command === 'accept' ? 'accepted' : 'completed'}`,
    })
  }
}

/** @param {{ town: string }} data */
export async function teardown(data) {
  for (let n = 0; n < PROPERTIES; n++) {
    const query = `resource=property:${data.town}-${n}&status=accepted&limit=100`
    const { data: stays } = await requestOk(200, 'teardown', 'GET', `/api/bookings?${query}`)
    const times = stays.map((/** @type {any} */ one) => ({ from: Date.parse(one.from), to: Date.parse(one.to) }))
    check(apart(times), { 'no two stays overlap': (all) => all })
  }
}

/** @param {{ from: number, to: number }[]} times */
function apart(times) {
  let end = 0
  for (const { from, to } of times.sort((one, other) => one.from - other.from)) {
    if (from < end) return false
    end = to
  }
  return true
}
