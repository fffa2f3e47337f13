/** Addresses within the page, after `#`. Invariant: every view has an address, so that it can be sent to other people. */

const part = encodeURIComponent

/** @param {string} ref `type:id` */
export function resourceHref(ref) {
  const [type = '', ...id] = ref.split(':')
  return `#/resources/${part(type)}/${part(id.join(':'))}`
}
/** @param {'purchase' | 'booking'} kind @param {string} id */
export const rowHref = (kind, id) => `#/${kind}s/${part(id)}`
export const customerHref = (customer) => `#/customers/${part(customer)}`
export const historyHref = (range) => `#/history/${range}`

/**
 * @typedef {{ page: 'overview' | 'lab' | 'missing' } | { page: 'history', range: string } | { page: 'resource', type: string, id: string }
 *   | { page: 'purchase' | 'booking' | 'customer', id: string }} Route
 */

/** @param {string} hash @returns {any} */
export function routeOf(hash) {
  const [name = '', first, second, ...rest] = hash
    .replace(/^#?\/?/, '')
    .split('/')
    .map(decode)
  if (rest.length > 0) return { page: 'missing' }
  if (name === '') return { page: 'overview' }
  if (name === 'lab') return { page: 'lab' }
  if (name === 'history') return { page: 'history', range: first ?? '1h' }
  if (name === 'resources' && first && second) return { page: 'resource', type: first, id: second }
  const kind = { purchases: 'purchase', bookings: 'booking', customers: 'customer' }[name]
  return kind && first ? { page: kind, id: first } : { page: 'missing' }
}

function decode(text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
