CREATE OR REPLACE FUNCTION public.create_audit_partition(month timestamptz) RETURNS regclass
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    name CONSTANT text := to_char(month, '"audit_logs_"YYYY_MM');
    made regclass := to_regclass(format('public.%I', name));
    held record;
BEGIN
    IF made IS NOT NULL OR to_regtype(format('public.%I', name)) IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP007', SCHEMA = 'public', TABLE = name,
            MESSAGE = format('the name %s is taken by something else than the partition of that month', name),
            DETAIL = format('audit_logs has no partition for the month that begins at %s; nothing was changed.', month),
            HINT = format('Rename it (ALTER TABLE public.%1$I RENAME TO …), or attach it if it is that month: '
                'ALTER TABLE public.audit_logs ATTACH PARTITION public.%1$I FOR VALUES FROM (%2$L) TO (%3$L).',
                name, month, month + interval '1 month');
    END IF;
    -- Apart from audit_logs, with its indexes, so that attaching builds none; the check spares it reading the rows.
    EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_logs INCLUDING ALL, '
        'CONSTRAINT maintenance_bounds CHECK (occurred_at >= %L AND occurred_at < %L))', name, month, month + interval '1 month');
    made := format('public.%I', name)::regclass;
    EXECUTE format('COMMENT ON TABLE %s IS %L', made, format('Audit rows of %s (UTC).', to_char(month, 'YYYY-MM')));
    SELECT pg_get_userbyid(parent.relowner) AS owner, parent.relowner = child.relowner AS same INTO held
    FROM pg_class parent, pg_class child WHERE parent.oid = 'public.audit_logs'::regclass AND child.oid = made;
    IF NOT held.same THEN
        EXECUTE format('ALTER TABLE %s OWNER TO %I', made, held.owner);
    END IF;
    -- Default privileges may have given more than the log's readers have.
    FOR held IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee
        FROM pg_class CROSS JOIN aclexplode(relacl) acl WHERE oid = made AND acl.grantee <> relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', made, held.grantee);
    END LOOP;
    FOR held IN
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee,
            string_agg(privilege_type, ', ') AS privileges, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS more
        FROM pg_class CROSS JOIN aclexplode(relacl) acl
        WHERE oid = 'public.audit_logs'::regclass AND acl.grantee <> relowner
        GROUP BY acl.grantee, is_grantable
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s%s', held.privileges, made, held.grantee, held.more);
    END LOOP;
    RETURN made;
END
$function$;

COMMENT ON FUNCTION public.create_audit_partition(timestamptz) IS
'Makes the table audit_logs_YYYY_MM for the month that begins then in UTC, like audit_logs in columns, indexes, owner and privileges, not attached yet. A name that is taken is refused (SQLSTATE MP007). For maintain_audit_partitions.';
REVOKE EXECUTE ON FUNCTION public.create_audit_partition(timestamptz) FROM PUBLIC;
