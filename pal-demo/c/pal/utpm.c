/* See utpm.h. */
#include "pal/utpm.h"
#include "svcapi.h"

TV_PAL_CODE uintptr_t pal_utpm(uintptr_t command, struct utpm_exchange *x)
{
	size_t out_len = x->out_len, extra_len = x->extra_len;
	int result = UTPM_ERR_BAD_PARAM;

	switch (command) {
	case TV_HC_UTPM_PCRREAD:
		result = svc_utpm_pcr_read(x->index, x->out);
		break;
	case TV_HC_UTPM_PCREXT:
		result = svc_utpm_pcr_extend(x->index, x->in);
		break;
	case TV_HC_UTPM_GENRAND:
		result = svc_utpm_rand(x->out, &out_len);
		break;
	case TV_HC_UTPM_SEAL:
		result = svc_utpm_seal(&x->info, x->in, x->in_len, x->out, &out_len);
		break;
	case TV_HC_UTPM_UNSEAL:
		result = svc_utpm_unseal(x->in, x->in_len, x->out, &out_len, x->extra);
		break;
	case TV_HC_UTPM_QUOTE:
		result = svc_utpm_quote(&x->nonce, &x->info.pcrSelection, x->out, &out_len,
					x->extra, &extra_len);
		break;
	case TV_HC_UTPM_ID_GETPUB:
		result = svc_utpm_id_getpub(x->out, &out_len);
		break;
	case TV_HC_TPMNVRAM_GETSIZE:
		out_len = 0;
		result = svc_tpmnvram_getsize(&out_len);
		break;
	case TV_HC_TPMNVRAM_READALL:
		result = svc_tpmnvram_readall(x->out);
		break;
	case TV_HC_TPMNVRAM_WRITEALL:
		result = svc_tpmnvram_writeall(x->in);
		break;
	}
	x->out_len = (uint32_t)out_len;
	x->extra_len = (uint32_t)extra_len;
	return (uintptr_t)result;
}
