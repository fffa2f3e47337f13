-- Customers are compared in Unicode NFC from now on; what was stored before is brought into the same form, so that it is
-- found and counted. A server whose encoding is not UTF8 cannot hold what would have to be changed.
DO $$
BEGIN
  IF getdatabaseencoding() <> 'UTF8' THEN
    RETURN;
  END IF;
  UPDATE purchases SET customer = normalize(customer) WHERE customer IS NOT NFC NORMALIZED;
  -- A rider who has an active ride under each form keeps both: one rider, one ride holds for the next one.
  UPDATE bookings b SET customer = normalize(customer)
  WHERE customer IS NOT NFC NORMALIZED AND NOT (
    kind = 'ride' AND status IN ('requested', 'accepted') AND EXISTS (
      SELECT 1 FROM bookings o WHERE o.id <> b.id AND o.kind = 'ride' AND o.status IN ('requested', 'accepted')
        AND normalize(o.customer) = normalize(b.customer)));
  CREATE TEMPORARY TABLE merged ON COMMIT DROP AS
    SELECT resource, normalize(customer) AS customer, sum(units)::bigint AS units FROM customer_units
    GROUP BY 1, 2 HAVING bool_or(customer IS NOT NFC NORMALIZED);
  DELETE FROM customer_units u USING merged m WHERE m.resource = u.resource AND m.customer = normalize(u.customer);
  INSERT INTO customer_units (resource, customer, units) SELECT resource, customer, units FROM merged;
  -- What two forms of one customer bought may exceed the limit, as what was bought before there was one.
  UPDATE resources r SET limited_at = clock_timestamp()
  WHERE EXISTS (SELECT 1 FROM merged m WHERE m.resource = r.ref AND m.units > r.max_per_customer);
END $$;
