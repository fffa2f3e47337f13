/** The dashboard. Invariant: each number is the server's; nothing here is counted or guessed. */
import { createCharts } from './charts.js'
import { createLab } from './lab.js'
import { follow, keyHeader } from './stream.js'
import { count, make, say, showBreakers, showLines, showLocks, showResources, time } from './tables.js'

const KEY = 'holdfast-key'
const at = (id) => document.getElementById(id)
const field = /** @type {HTMLInputElement} */ (at('key'))
const clock = (when) => new Date(when).toLocaleTimeString('en-GB')
const key = () => sessionStorage.getItem(KEY)

const charts = createCharts({ settled: at('settled-chart'), wait: at('wait-chart') })
const lab = createLab(at('races'), async (method, path, body, headers = {}) => {
  const json = body === undefined ? {} : { 'content-type': 'application/json' }
  const response = await fetch(path, {
    method,
    headers: { ...json, ...keyHeader(key()), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  return { status: response.status, body: await response.json() }
})

let newest

function show(snapshot) {
  newest = snapshot
  const now_ms = Date.parse(snapshot.at)
  const { resources, lines, locks, pace, breakers, verdict } = snapshot
  const orDash = (value, how) => (value === null ? '–' : how(value))
  say(
    at('per-second'),
    orDash(pace.per_second, (n) => count(n < 10 ? n : Math.round(n))),
  )
  say(at('wait-p50'), orDash(pace.wait_p50_ms, time))
  say(at('wait-p95'), orDash(pace.wait_p95_ms, time))
  const length = (all) => all.reduce((sum, line) => sum + line.length, 0)
  const partly = snapshot.more_lines > 0 || lines?.some((line) => line.more)
  say(
    at('in-line'),
    orDash(lines, (all) => count(length(all)) + (partly ? '+' : '')),
  )
  const holders = (all) => all.reduce((sum, lock) => sum + lock.holders.length, 0)
  say(
    at('held'),
    orDash(locks, (all) => count(holders(all)) + (snapshot.more_locks > 0 ? '+' : '')),
  )
  const states = breakers.flatMap((one) => Object.values(one.breakers))
  const notClosed = states.filter((state) => state !== 'closed').length
  say(at('breaker-sum'), notClosed === 0 ? 'all closed' : `${notClosed} of ${states.length} not closed`)
  at('breaker-sum').classList.toggle('bad', notClosed > 0)
  showVerdict(verdict, now_ms)
  showResources(at('resources'), resources)
  showLines(at('lines'), lines)
  say(
    at('more-lines'),
    snapshot.more_lines > 0 ? `${count(snapshot.more_lines)} more lines, whose heads came later.` : '',
  )
  showLocks(at('locks'), locks, now_ms)
  say(at('more-locks'), snapshot.more_locks > 0 ? `${count(snapshot.more_locks)} more locks.` : '')
  showBreakers(at('breakers'), breakers)
  charts.add(pace)
  say(at('settled-says'), `Now ${at('per-second').textContent}.`)
  say(at('wait-says'), `Now ${at('wait-p50').textContent} and ${at('wait-p95').textContent}.`)
  at('lab').hidden = !snapshot.lab
  say(at('as-of'), `As of ${clock(snapshot.at)}, by the server's clock.`)
}

/** Its age is outside of what is read aloud: that changes only with the verdict. */
function showVerdict(verdict, now_ms) {
  const broken = verdict?.broken ?? []
  at('verdict').className = `verdict ${verdict === null ? 'unknown' : broken.length > 0 ? 'broken' : 'holds'}`
  say(
    at('verdict-at'),
    verdict === null ? '' : `The verifier looked ${time(Math.max(0, now_ms - Date.parse(verdict.at)))} ago.`,
  )
  say(
    at('verdict-text'),
    verdict === null
      ? 'No verdict: the verifier has not looked for a while.'
      : broken.length > 0
        ? `${broken.length} ${broken.length === 1 ? 'invariant is' : 'invariants are'} broken.`
        : 'The invariants hold.',
  )
  const texts = broken.map(({ invariant, offenders }) => `${invariant} (${offenders.join(', ')})`)
  if (texts.join('\n') === Array.from(at('broken').children, (item) => item.textContent).join('\n')) return
  at('broken').replaceChildren(...texts.map((text) => make('li', '', text)))
}

function state(name, text) {
  document.body.dataset.state = name
  say(at('connection'), text)
}

function begin() {
  void follow({
    key,
    heard(event, data) {
      at('ask').hidden = true
      if (event === 'samples') charts.set(data)
      else {
        state('live', 'Live')
        show(data)
      }
    },
    lost() {
      const since = newest ? ` The figures below are of ${clock(newest.at)}.` : ''
      state('lost', `No connection.${since} Trying again.`)
    },
    hidden() {
      state('connecting', 'Paused while this tab is hidden')
    },
    refused() {
      say(at('refused'), key() ? 'This key is not taken.' : '')
      sessionStorage.removeItem(KEY)
      state('asking', 'A key is needed')
      at('ask').hidden = false
      field.focus()
    },
  })
}

at('ask').addEventListener('submit', (event) => {
  event.preventDefault()
  sessionStorage.setItem(KEY, field.value.trim())
  field.value = ''
  state('connecting', 'Connecting')
  begin()
})
// What is wider than its place can be scrolled by keyboard too; what is not is no stop on the way.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const place = /** @type {HTMLElement} */ (target.closest('.scroll'))
    const wider = place.scrollWidth > place.clientWidth
    const attributes = { tabindex: '0', role: 'region', 'aria-label': `${at(place.dataset.of).textContent}, table` }
    for (const [name, value] of Object.entries(attributes)) {
      if (wider) place.setAttribute(name, value)
      else place.removeAttribute(name)
    }
  }
})
for (const place of document.querySelectorAll('.scroll')) {
  sizes.observe(place)
  sizes.observe(place.firstElementChild)
}

lab.draw()
begin()
