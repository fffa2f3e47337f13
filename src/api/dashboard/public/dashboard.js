/** The dashboard. Invariant: every number comes from the server; the page computes sums only. */
import { createCharts } from './charts.js'
import { createLab } from './lab.js'
import { follow, keyHeader } from './stream.js'
import { count, make, setText, showBreakers, showLocks, showQueues, showResources, time } from './tables.js'

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
  const { resources, queues, locks, throughput, processes, verification } = snapshot
  const orDash = (value, how) => (value === null ? '–' : how(value))
  setText(
    at('per-second'),
    orDash(throughput.per_second, (n) => count(n < 10 ? n : Math.round(n))),
  )
  setText(at('wait-p50'), orDash(throughput.wait_p50_ms, time))
  setText(at('wait-p95'), orDash(throughput.wait_p95_ms, time))
  const length = (all) => all.reduce((sum, queue) => sum + queue.length, 0)
  const partly = snapshot.more_queues > 0 || queues?.some((queue) => queue.more)
  setText(
    at('in-line'),
    orDash(queues, (all) => count(length(all)) + (partly ? '+' : '')),
  )
  const holders = (all) => all.reduce((sum, lock) => sum + lock.holders.length, 0)
  setText(
    at('held'),
    orDash(locks, (all) => count(holders(all)) + (snapshot.more_locks > 0 ? '+' : '')),
  )
  const states = (processes ?? []).flatMap((one) => Object.values(one.breakers))
  const notClosed = states.filter((state) => state !== 'closed').length
  setText(at('breaker-sum'), notClosed === 0 ? 'all closed' : `${notClosed} of ${states.length} not closed`)
  at('breaker-sum').classList.toggle('bad', notClosed > 0)
  showVerification(verification, now_ms)
  showResources(at('resources'), resources)
  showQueues(at('lines'), queues)
  setText(
    at('more-lines'),
    snapshot.more_queues > 0 ? `${count(snapshot.more_queues)} more queues, with younger rows.` : '',
  )
  showLocks(at('locks'), locks, now_ms)
  setText(at('more-locks'), snapshot.more_locks > 0 ? `${count(snapshot.more_locks)} more locks.` : '')
  showBreakers(at('breakers'), processes)
  charts.add(throughput)
  setText(at('settled-says'), `Now ${at('per-second').textContent}.`)
  setText(at('wait-says'), `Now ${at('wait-p50').textContent} and ${at('wait-p95').textContent}.`)
  at('lab').hidden = !snapshot.lab
  setText(at('as-of'), `As of ${clock(snapshot.at)}, by the server's clock.`)
}

/** The age is outside the live region, so that a screen reader announces only a changed result. */
function showVerification(verification, now_ms) {
  const broken = verification?.broken ?? []
  at('verdict').className = `verdict ${verification === null ? 'unknown' : broken.length > 0 ? 'broken' : 'holds'}`
  setText(
    at('verdict-at'),
    verification === null ? '' : `The verifier ran ${time(Math.max(0, now_ms - Date.parse(verification.at)))} ago.`,
  )
  setText(
    at('verdict-text'),
    verification === null
      ? 'No recent verifier result.'
      : broken.length > 0
        ? `${broken.length} ${broken.length === 1 ? 'invariant is' : 'invariants are'} broken.`
        : 'All invariants hold.',
  )
  const texts = broken.map(({ invariant, offenders }) => `${invariant} (${offenders.join(', ')})`)
  if (texts.join('\n') === Array.from(at('broken').children, (item) => item.textContent).join('\n')) return
  at('broken').replaceChildren(...texts.map((text) => make('li', '', text)))
}

function setState(name, text) {
  document.body.dataset.state = name
  setText(at('connection'), text)
}

function begin() {
  void follow({
    key,
    onEvent(event, data) {
      at('ask').hidden = true
      if (event === 'samples') charts.set(data)
      else {
        setState('live', 'Live')
        show(data)
      }
    },
    onLost() {
      const since = newest ? ` The figures below are from ${clock(newest.at)}.` : ''
      setState('lost', `No connection.${since} Reconnecting.`)
    },
    onHidden() {
      setState('connecting', 'Paused while this tab is hidden')
    },
    onRefused() {
      setText(at('refused'), key() ? 'This key was refused.' : '')
      sessionStorage.removeItem(KEY)
      setState('asking', 'API key required')
      at('ask').hidden = false
      field.focus()
    },
  })
}

at('ask').addEventListener('submit', (event) => {
  event.preventDefault()
  sessionStorage.setItem(KEY, field.value.trim())
  field.value = ''
  setState('connecting', 'Connecting')
  begin()
})
// A table wider than its container is focusable, so that it can be scrolled by keyboard; others are no tab stop.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const container = /** @type {HTMLElement} */ (target.closest('.scroll'))
    const wider = container.scrollWidth > container.clientWidth
    const attributes = { tabindex: '0', role: 'region', 'aria-label': `${at(container.dataset.of).textContent}, table` }
    for (const [name, value] of Object.entries(attributes)) {
      if (wider) container.setAttribute(name, value)
      else container.removeAttribute(name)
    }
  }
})
for (const container of document.querySelectorAll('.scroll')) {
  sizes.observe(container)
  sizes.observe(container.firstElementChild)
}

lab.draw()
begin()
