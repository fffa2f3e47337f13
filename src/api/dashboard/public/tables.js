/** The tables of the dashboard. Invariant: rows are updated in place, so focus and scroll position are kept. */

const numbers = new Intl.NumberFormat('en')
export const count = (n) => numbers.format(n).replace('-', '−')

/** Returns milliseconds in readable units. */
export function time(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`
  return `${Math.floor(ms / 3_600_000)} h`
}

/** Writes only a changed text, so that a screen reader does not announce an unchanged one. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

export function make(tag, className = '', text = '') {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text) element.textContent = text
  return element
}

/**
 * Draws one row for each item, in order. `columns` draw into cells that are reused; the first cell is the row's header. The table
 * shows `none` if there are no items, and `missing` if the items could not be read.
 */
function fill(body, items, keyOf, columns, { none, missing = 'Unknown: it could not be read.' }) {
  const before = new Map(Array.from(body.rows, (row) => [row.dataset.key, row]))
  const rows = (items ?? []).map((item) => {
    const key = keyOf(item)
    const row = before.get(key) ?? newRow(key, columns)
    columns.forEach(({ draw }, i) => {
      draw(row.cells[i], item)
    })
    return row
  })
  if (rows.length === 0) {
    const row = before.get('') ?? newRow('', [{ tag: 'td' }])
    row.cells[0].colSpan = columns.length
    row.cells[0].className = 'note'
    setText(row.cells[0], items ? none : missing)
    rows.push(row)
  }
  for (const row of before.values()) if (!rows.includes(row)) row.remove()
  rows.forEach((row, i) => {
    if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] ?? null)
  })
}

function newRow(key, columns) {
  const row = make('tr')
  row.dataset.key = key
  columns.forEach(({ tag = 'td', className = '' }) => {
    const cell = make(tag, className)
    if (tag === 'th') cell.scope = 'row'
    row.append(cell)
  })
  return row
}

/** Writes a first line, and a second line in small print. */
function twoLines(cell, first, second) {
  if (cell.children.length === 0) cell.append(make('span', 'first'), make('span', 'second'))
  setText(cell.children[0], first)
  setText(cell.children[1], second)
}

const number = (of) => ({ className: 'number', draw: (cell, item) => setText(cell, of(item)) })

const byTime = (resource) => resource.kind === 'calendar'
const units = (of) => number((resource) => (byTime(resource) ? '–' : count(of(resource))))

export function showResources(body, resources) {
  const columns = [
    {
      tag: 'th',
      draw: (cell, one) => twoLines(cell, one.resource, byTime(one) ? `${one.name}, booked by time` : one.name),
    },
    { className: 'share-column', draw: drawShare },
    units((one) => one.available),
    units((one) => one.held),
    units((one) => one.sold),
  ]
  fill(body, resources, (one) => one.resource, columns, { none: 'Nothing is for sale yet.' })
}

function drawShare(cell, one) {
  if (cell.children.length === 0) {
    const bar = make('span', 'share')
    bar.setAttribute('aria-hidden', 'true')
    bar.append(make('i', 'left'), make('i', 'held'), make('i', 'sold'))
    cell.append(bar)
  }
  const bar = cell.firstElementChild
  bar.hidden = byTime(one) || one.total === 0
  const parts = [one.available, one.held, one.sold]
  parts.forEach((part, i) => {
    bar.children[i].style.flexGrow = String(part)
  })
}

export function showQueues(body, queues) {
  const columns = [
    { tag: 'th', draw: (cell, queue) => setText(cell, queue.resource) },
    number((queue) => count(queue.length) + (queue.more ? '+' : '')),
    number((queue) => time(queue.oldest_ms)),
  ]
  fill(body, queues, (queue) => queue.resource, columns, { none: 'All queues are empty.' })
}

export function showLocks(body, locks, now_ms) {
  const entries = locks?.flatMap((lock) => {
    const waiters = lock.waiters.map((waiter) => waiter.owner)
    const holders = lock.holders.length > 0 ? lock.holders : [undefined]
    return holders.map((holder, i) => ({ lock, holder, key: `${lock.resource} ${i}`, waiters: i === 0 ? waiters : [] }))
  })
  const mode = (holder) => (holder.mode === 'permit' ? `permit of ${holder.limit}` : holder.mode)
  const since = (holder) => time(Math.max(0, now_ms - Date.parse(holder.since)))
  const columns = [
    {
      tag: 'th',
      draw: (cell, { lock, holder }) =>
        twoLines(cell, lock.resource, holder ? `${mode(holder)}: ${holder.owner}` : 'free, being handed to a waiter'),
    },
    {
      className: 'token',
      draw: (cell, { lock, holder }) =>
        twoLines(cell, holder ? since(holder) : '–', String(holder?.fencing_token ?? lock.fencing_token)),
    },
    {
      draw: (cell, { waiters }) => twoLines(cell, waiters.length > 0 ? count(waiters.length) : '–', waiters.join(', ')),
    },
  ]
  fill(body, entries, (entry) => entry.key, columns, { none: 'No lease is held.' })
}

const STATES = { closed: 'closed', half_open: 'half open', open: 'open' }

export function showBreakers(body, processes) {
  const columns = [
    {
      tag: 'th',
      draw: (cell, one) => setText(cell, `${one.role} ${one.id}`),
    },
    {
      draw(cell, one) {
        const states = Object.entries(one.breakers)
        if (cell.children.length !== states.length) cell.replaceChildren(...states.map(() => make('span')))
        states.forEach(([name, state], i) => {
          cell.children[i].className = `state ${state}`
          setText(cell.children[i], `${name} ${STATES[state]}`)
        })
      },
    },
  ]
  fill(body, processes, (one) => one.id, columns, { none: 'No process has reported its breakers.' })
}
