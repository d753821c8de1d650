"""A version of a template is kept by every process and named by what was accepted with it: it never changes."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION refuse_template_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'versions of templates never change; make a new one' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER template_version_fixed BEFORE UPDATE ON template_version
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION refuse_template_change();
CREATE TRIGGER template_text_fixed BEFORE UPDATE ON template_text
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION refuse_template_change();
CREATE TRIGGER template_locale_fixed BEFORE UPDATE ON template
    FOR EACH ROW WHEN (OLD.default_locale IS DISTINCT FROM NEW.default_locale) EXECUTE FUNCTION refuse_template_change();
"""
BACKWARD = """
DROP TRIGGER template_locale_fixed ON template;
DROP TRIGGER template_text_fixed ON template_text;
DROP TRIGGER template_version_fixed ON template_version;
DROP FUNCTION refuse_template_change();
"""


class Migration(migrations.Migration):

    dependencies = [("delivery", "0004_broadcast_pace")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
