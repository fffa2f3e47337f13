/** The page at `/`. Invariant: every number comes from the server; the page computes sums and shares only. */
import { useEffect, useRef, useState } from './hooks.js'
import { CustomerPage } from './pages/customer.js'
import { HistoryPage } from './pages/history.js'
import { LabPage } from './pages/lab.js'
import { Overview } from './pages/overview.js'
import { ResourcePage } from './pages/resource.js'
import { RowPage } from './pages/row.js'
import { Condition, levelWord } from './parts/condition.js'
import { Search } from './parts/search.js'
import { render } from './preact.js'
import { dropKey, keepKey, readKey } from './request.js'
import { routeOf } from './routes.js'
import { useStream } from './stream.js'
import { html } from './view.js'

const NAMES = { overview: 'Overview', history: 'History', lab: 'Lab', missing: 'Not found' }
const STATES = {
  connecting: 'Connecting',
  live: 'Live',
  lost: 'No connection',
  hidden: 'Paused',
  refused: 'Key required',
}

/** Returns the view that the address names; a new view gets the focus, so that a keyboard continues there. */
function useRoute(main) {
  const [hash, setHash] = useState(location.hash)
  useEffect(() => {
    const change = () => {
      setHash(location.hash)
      main.current?.focus({ preventScroll: true })
      scrollTo(0, 0)
    }
    addEventListener('hashchange', change)
    return () => removeEventListener('hashchange', change)
  }, [])
  return routeOf(hash)
}

function App() {
  const main = useRef(null)
  const route = useRoute(main)
  // With keys the page asks first: a request without a key would only be refused.
  const [hasKey, setHasKey] = useState(document.body.dataset.keys !== 'true' || readKey() !== null)
  const [wasRefused, setRefused] = useState(false)
  const stream = useStream(hasKey, () => {
    setRefused(readKey() !== null)
    dropKey()
    setHasKey(false)
  })
  useTitle(route, stream)
  document.body.dataset.state = hasKey ? stream.state : 'asking'
  const skip = (event) => {
    event.preventDefault()
    main.current.focus()
  }
  return html`
    <header>
      <a class="skip" href="#/" onClick=${skip}>Skip to the figures</a>
      <a class="brand" href="#/"><img src="/dashboard/icon.svg" alt="" width="28" height="28" />Holdfast</a>
      <nav aria-label="Views">
        ${['overview', 'history', stream.snapshot?.lab && 'lab'].filter(Boolean).map(
          (name) => html`
          <a key=${name} href=${name === 'overview' ? '#/' : `#/${name}`} aria-current=${route.page === name ? 'page' : undefined}>${NAMES[name]}</a>`,
        )}
      </nav>
      ${hasKey && html`<${Search} />`}
      <p class="connection">${hasKey ? STATES[stream.state] : 'Key required'}</p>
    </header>
    ${hasKey && html`<${Condition} stream=${stream} />`}
    <main ref=${main} tabindex="-1">
      ${hasKey ? html`<${View} route=${route} stream=${stream} />` : html`<${AskKey} refused=${wasRefused} onKey=${() => setHasKey(true)} />`}
    </main>
    <footer>
      <nav aria-label="Elsewhere"><a href="/docs">API</a> <a href="/admin/queues">Bull Board</a> <a href="/metrics">Metrics</a></nav>
    </footer>`
}

function View({ route, stream }) {
  const { page } = route
  if (page === 'overview') return html`<${Overview} stream=${stream} />`
  if (page === 'history') return html`<${HistoryPage} range=${route.range} />`
  if (page === 'lab') return html`<${LabPage} />`
  if (page === 'resource')
    return html`<${ResourcePage} key=${`${route.type}:${route.id}`} type=${route.type} id=${route.id} />`
  if (page === 'customer') return html`<${CustomerPage} key=${route.id} id=${route.id} />`
  if (page === 'missing')
    return html`<div class="title"><h1>Nothing is here</h1></div><p>This address names no view. <a href="#/">Overview</a></p>`
  return html`<${RowPage} key=${route.id} kind=${page} id=${route.id} />`
}

/** The tab's title begins with the level unless all is well, so that a tab in the background shows it. */
function useTitle(route, { state, snapshot }) {
  const level = state === 'lost' ? 'red' : (snapshot?.condition.level ?? 'green')
  const what =
    NAMES[route.page] ?? (route.page === 'resource' ? `${route.type}:${route.id}` : `${route.page} ${route.id}`)
  document.title = `${level === 'green' ? '' : `${levelWord(level)}: `}${what} · Holdfast`
}

function AskKey({ refused, onKey }) {
  const field = useRef(null)
  useEffect(() => field.current.focus(), [])
  const submit = (event) => {
    event.preventDefault()
    keepKey(field.current.value.trim())
    onKey()
  }
  return html`
    <h1 class="unseen">API key</h1>
    <form class="panel ask" onSubmit=${submit}>
      <label for="key">This API requires a key. It is stored until this tab is closed.</label>
      <input ref=${field} id="key" name="key" type="password" autocomplete="off" required />
      <button type="submit">Open</button>
      <p class="bad" role="alert">${refused ? 'This key was refused.' : ''}</p>
    </form>`
}

render(html`<${App} />`, document.getElementById('page'))
